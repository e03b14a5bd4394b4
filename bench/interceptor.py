"""What tracing costs the application: CPU microseconds a record, beside the peer, in one interleaved run.

Each variant is a process of its own that stays for a round; they take turns, a slice of records at a time, on
one real broker, and the median over the slices of all rounds counts: two processes that do the same can
differ by more than what is measured here. Figures are CPU time of the whole process, threads included.
`plain` is kafka-python as it is, `floor` adds one constant b3 header by hand, `peer` is
opentelemetry-instrumentation-kafka-python with a BatchSpanProcessor and an exporter that does nothing. All
read the same records, with a header for either.

    python bench/interceptor.py [--rounds 3] [--slices 9] [--records 4000] [--null]

Before that, nothing is behind kafka-python: send() returns a future that is then completed, the loop yields
records that are there already. What remains is the instrumentation alone; --null does only this.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ROOT = Path(__file__).parent.parent
VARIANTS = ("plain", "floor", "kaspan", "kaspan unsampled", "kaspan excluded", "peer", "peer unsampled")
OPERATIONS = ("send", "receive")
RESULTS = ROOT / "bench" / "results"


class Variant:
    """One worker process, told on its standard input what to do next."""

    def __init__(self, name: str, bootstrap_servers: str, ring_dir: Path, records: int, slices: int) -> None:
        self.name = name
        environment = os.environ | {
            "KASPAN_INTERCEPTOR__RING_DIR": str(ring_dir),
            "KASPAN_SERVICE": "bench",
            "KASPAN_INTERCEPTOR__SAMPLING__RATE": "0" if name == "kaspan unsampled" else "1",
        }
        if name == "kaspan excluded":
            environment["KASPAN_INTERCEPTOR__EXCLUDE_TOPICS"] = '["bench-*"]'
        worker = Path(__file__).parent / "interceptor_worker.py"
        self._process = subprocess.Popen(
            [sys.executable, str(worker), name, bootstrap_servers, str(records), str(slices)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.costs_us: dict[str, list[float]] = {}

    def run(self, what: str) -> None:
        """Let the worker do one slice of `what` and note what a record cost."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the worker for {self.name} ended")
        self.costs_us.setdefault(what, []).append(float(answer))

    def end(self) -> None:
        """Close the worker's input, which ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def read_away(ring_dir: Path, stop: threading.Event) -> None:
    """Do what an agent does, as cheaply as can be: keep the rings empty."""
    from kaspan.wire import ring

    while not stop.wait(0.02):
        for path in ring_dir.glob("*.ring"):
            descriptor = os.open(path, os.O_RDWR)
            os.pwrite(descriptor, os.pread(descriptor, 8, ring.WRITE_POS), ring.READ_POS)
            os.close(descriptor)


def measure(bootstrap_servers: str, slices: int, records: int) -> dict[str, dict[str, list[float]]]:
    """Run all variants in turns for one round; returns microseconds a record by operation and variant.

    The first slice warms up and does not count.
    """
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        ring_dir = Path(directory) / "rings"
        stop = threading.Event()
        reader = threading.Thread(target=read_away, args=(ring_dir, stop))
        reader.start()
        variants = [Variant(name, bootstrap_servers, ring_dir, records, slices + 1) for name in VARIANTS]
        try:
            for number in range(slices + 1):
                for variant in variants[number % 2 :: 1] + variants[: number % 2]:
                    for what in OPERATIONS:
                        variant.run(what)
        finally:
            for variant in variants:
                variant.end()
            stop.set()
            reader.join()
    return {what: {variant.name: variant.costs_us[what][1:] for variant in variants} for what in OPERATIONS}


def medians(rounds: list[dict[str, dict[str, list[float]]]]) -> dict[str, dict[str, float]]:
    """Take the median over all slices of all rounds."""
    return {
        what: {
            name: statistics.median(cost_us for costs_us in rounds for cost_us in costs_us[what][name])
            for name in VARIANTS
        }
        for what in OPERATIONS
    }


def table(costs_us: dict[str, dict[str, float]]) -> str:
    """Make the table that is printed: cost, and overhead as a part of the peer's."""
    lines = []
    for what, base in (("send", "floor"), ("receive", "plain")):
        of = costs_us[what]
        peer_us = of["peer"] - of[base]
        lines.append(f"{what}: CPU us a record; overhead over {base}; as a part of the peer's")
        for name, cost_us in of.items():
            over_us = cost_us - of[base]
            lines.append(f"  {name:18} {cost_us:8.2f} {over_us:8.2f} {over_us / peer_us:8.3f}")
    return "\n".join(lines)


def main() -> None:
    """Measure with nothing behind kafka-python, and then with a real broker."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--slices", type=int, default=9)
    arguments.add_argument("--records", type=int, default=4000)
    arguments.add_argument("--null", action="store_true", help="only with nothing behind kafka-python")
    options = arguments.parse_args()
    print_and_keep("interceptor-null", "nothing behind it", "", options)
    if options.null:
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from servers.jars import fetch_jars
    from servers.running import Servers

    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(fetch_jars(), Path(directory))
        servers.start(["kafka"])
        try:
            print_and_keep("interceptor", "real broker", servers.kafka().bootstrap_servers, options)
        finally:
            servers.stop()


def print_and_keep(name: str, behind: str, bootstrap_servers: str, options: argparse.Namespace) -> None:
    """Run all rounds, print the table and keep it."""
    rounds = [measure(bootstrap_servers, options.slices, options.records) for _ in range(options.rounds)]
    costs_us = medians(rounds)
    print(f"interceptor, {behind}")
    print(table(costs_us))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(costs_us, indent=1) + "\n")


if __name__ == "__main__":
    main()
