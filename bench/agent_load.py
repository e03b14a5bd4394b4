"""The agent under load: 50 applications, by rings and by HTTP, with a Zipkin that is up and then down.

For each way a new agent gets `--spans` at `--rate` a second while Zipkin is up, then `--outage-spans` while
it is down: the spool must take them, and drain when Zipkin is back. Spans are counted at both ends. Ten
minutes of 20,000 a second are 12 million spans and 7 GB of disk. The default is a tenth of that, which
shows the same: memory that grows with the spool grows with the first spans too.

    python bench/agent_load.py [--rate 20000] [--spans 1200000] [--outage-spans 1200000] [--ways ring,http]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from agent_ring import SPAN, rss_mb
from load_worker import CountingZipkin, Forked, cpu_ns, post_bodies, write_rings

APPLICATIONS = 50
PROCESSES = 2
SPOOL_BYTES = 64 << 30
RESULTS = Path(__file__).parent / "results"


class Phase(NamedTuple):
    """The measurements of one phase: steady load, outage, or draining."""

    name: str
    spans: int
    seconds: float
    lost: int
    cpu_us: float
    rss_first_mb: float
    rss_last_mb: float
    rss_peak_mb: float
    spool_mb: float

    def line(self) -> str:
        """Return the phase as a line of the table."""
        return (
            f"{self.name:24} {self.spans:9} {self.spans / self.seconds:8.0f} {self.lost:6} "
            f"{self.cpu_us:8.2f} {self.rss_first_mb:7.1f} {self.rss_last_mb:7.1f} {self.rss_peak_mb:7.1f} "
            f"{self.spool_mb:9.0f}"
        )


TITLE = (
    f"{'':24} {'spans':>9} {'spans/s':>8} {'lost':>6} {'us/span':>8} {'MB 1st':>7} {'MB last':>7} "
    f"{'MB peak':>7} {'spool MB':>9}"
)


class Agent:
    """An agent whose spool does not fill up, measured while applications send spans."""

    def __init__(self, directory: str, ring_dir: str, zipkin_port: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.ring_dir = ring_dir
        self.spool = Path(directory) / "spool.db"
        environment = os.environ | {
            "KASPAN_AGENT__SOCKET": "",
            "KASPAN_AGENT__SPOOL__MAX_BYTES": str(SPOOL_BYTES),
        }
        command = [sys.executable, "-m", "kaspan.cli.main", "agent", "--ring-dir", ring_dir]
        command += ["--spool", str(self.spool), "--zipkin", f"http://127.0.0.1:{zipkin_port}"]
        command += ["--listen", f"127.0.0.1:{self.port}"]
        self._log = open(f"{directory}/log", "w+")  # noqa: SIM115 (closed by `end`)
        self._process = subprocess.Popen(command, stderr=self._log, env=environment)
        self.pid = self._process.pid
        while "reads rings" not in Path(self._log.name).read_text():
            assert self._process.poll() is None, "the agent did not start"
            time.sleep(0.05)
        time.sleep(1.0)

    def watch(
        self, name: str, spans: int, work: list[Forked], expected: int, zipkin: CountingZipkin | None
    ) -> Phase:
        """Wait until the applications have ended and, if there is a Zipkin, it has all `expected` spans."""
        began_s, began_ns, seen_mb = time.monotonic(), cpu_ns(self.pid), [rss_mb(self.pid, "VmRSS")]
        deadline_s = began_s + 3600
        for process in work:
            while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                seen_mb.append(rss_mb(self.pid, "VmRSS"))
                time.sleep(0.5)
            process.wait()
        spool_mb = self.spool.stat().st_size / 1e6
        while zipkin is not None and zipkin.spans < expected and time.monotonic() < deadline_s:
            seen_mb.append(rss_mb(self.pid, "VmRSS"))
            time.sleep(0.5)
        seconds = time.monotonic() - began_s
        return Phase(
            name,
            spans,
            seconds,
            0 if zipkin is None else expected - zipkin.spans,
            (cpu_ns(self.pid) - began_ns) / spans / 1000,
            seen_mb[0],
            seen_mb[-1],
            rss_mb(self.pid, "VmHWM"),
            spool_mb,
        )

    def end(self) -> None:
        """End the agent by SIGTERM; fails if spans are left in the spool, or if its log has a failure."""
        self._process.send_signal(signal.SIGTERM)
        code, said = self._process.wait(60), Path(self._log.name).read_text()
        assert code == 0, f"{code}: {said}"
        assert "Traceback" not in said, said
        assert ", 0 left in the spool" in said, said
        self._log.close()


def start_applications(way: str, agent: Agent, spans: int, rate: float) -> list[Forked]:
    """Fork applications that send `spans` spans in all, at `rate` a second in all."""
    share, part = APPLICATIONS // PROCESSES, spans // PROCESSES

    def work() -> None:
        if way == "ring":
            write_rings(agent.ring_dir, share, part, rate / PROCESSES)
        else:
            post_bodies(agent.port, share, part, rate / PROCESSES)

    return [Forked(work) for _ in range(PROCESSES)]


def measure(way: str, options: argparse.Namespace) -> list[Phase]:
    """Measure one agent: steady load, then, if --outage-spans is not 0, an outage of Zipkin and the
    draining.
    """
    zipkin = CountingZipkin()
    phases = []
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as ring_dir,
        tempfile.TemporaryDirectory(dir=options.spool_dir) as directory,
    ):
        agent = Agent(directory, ring_dir, zipkin.port)
        work = start_applications(way, agent, options.spans, options.rate)
        phases.append(agent.watch(f"{way}, steady", options.spans, work, options.spans, zipkin))
        if options.outage_spans:
            zipkin.end()
            work = start_applications(way, agent, options.outage_spans, options.outage_rate or options.rate)
            phases.append(agent.watch(f"{way}, Zipkin away", options.outage_spans, work, 0, None))
            zipkin = CountingZipkin(zipkin.port)
            phases.append(
                agent.watch(f"{way}, draining", options.outage_spans, [], options.outage_spans, zipkin)
            )
        agent.end()
    zipkin.end()
    return phases


def main() -> None:
    """Print a line for each phase and write them to a file; fails if a span was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=20_000, help="spans a second, of all applications")
    parser.add_argument("--spans", type=int, default=1_200_000)
    parser.add_argument("--outage-spans", type=int, default=1_200_000)
    parser.add_argument("--outage-rate", type=int, help="as --rate, while Zipkin is away")
    parser.add_argument("--ways", default="ring,http")
    parser.add_argument("--spool-dir", help="where the spool is made (default: the temporary directory)")
    options = parser.parse_args()
    print(f"{APPLICATIONS} applications, {options.rate} spans/s, {len(SPAN % (1, 1, 1))} bytes a span")
    print(f"load average {os.getloadavg()[0]:.1f} at the start\n{TITLE}")
    found: list[Phase] = []
    for way in options.ways.split(","):
        phases = measure(way, options)
        found += phases
        print("\n".join(phase.line() for phase in phases), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "agent_load.json").write_text(
        json.dumps([phase._asdict() for phase in found], indent=1) + "\n"
    )
    assert not any(phase.lost for phase in found), "spans were lost"


if __name__ == "__main__":
    main()
