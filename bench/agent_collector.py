"""The agent compared with the OpenTelemetry Collector (Go) on the same work: from Zipkin clients to Zipkin.

Needs a Collector with zipkin receiver, zipkin exporter and file_storage: --collector or the variable OTELCOL
names it. Without one the bench ends with a message. Four variants take turns: the agent by rings and by HTTP,
with a spool that flushes every commit, and the Collector with its queue in memory and in a file with fsync.
Measured: CPU microseconds of the process for each span, and its peak memory.

    python bench/agent_collector.py [--collector PATH] [--rounds 3] [--spans 80000] [--rate 8000]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent_load import RESULTS, Agent
from agent_ring import rss_mb
from load_worker import CountingZipkin, Forked, cpu_ns, post_bodies, write_rings

CONNECTIONS = 10
CONFIGURATION = """
receivers:
  zipkin: {{endpoint: 127.0.0.1:{port}, keep_alives_enabled: true}}
exporters:
  zipkin:
    endpoint: http://127.0.0.1:{zipkin_port}/api/v2/spans
    sending_queue: {{enabled: true, queue_size: 100000{storage}}}
extensions:
  file_storage: {{directory: {directory}, fsync: true}}
service:
  extensions: [file_storage]
  telemetry: {{metrics: {{level: none}}, logs: {{level: warn}}}}
  pipelines:
    traces: {{receivers: [zipkin], exporters: [zipkin]}}
"""


class Cost(NamedTuple):
    """The cost of one process in one round."""

    cpu_us: float
    peak_mb: float


def measured(pid: int, zipkin: CountingZipkin, spans: int, give: Callable[[], None]) -> Cost:
    """Send spans by `give`, and wait until Zipkin has all of them."""
    began_ns, before = cpu_ns(pid), zipkin.spans
    Forked(give).wait()
    deadline_s = time.monotonic() + 120
    while zipkin.spans < before + spans:
        assert time.monotonic() < deadline_s, f"{zipkin.spans - before} of {spans} spans arrived"
        time.sleep(0.05)
    return Cost((cpu_ns(pid) - began_ns) / spans / 1000, rss_mb(pid, "VmHWM"))


def by_agent(way: str, spans: int, rate: float) -> Cost:
    """Measure a new agent."""
    zipkin = CountingZipkin()
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as ring_dir,
        tempfile.TemporaryDirectory() as directory,
    ):
        agent = Agent(directory, ring_dir, zipkin.port)
        give = {
            "ring": lambda: write_rings(ring_dir, CONNECTIONS, spans, rate),
            "http": lambda: post_bodies(agent.port, CONNECTIONS, spans, rate),
        }
        cost = measured(agent.pid, zipkin, spans, give[way])
        agent.end()
    zipkin.end()
    return cost


def by_collector(collector: str, storage: str, spans: int, rate: float) -> Cost:
    """Measure a new Collector."""
    zipkin = CountingZipkin()
    with tempfile.TemporaryDirectory() as directory, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        configuration = Path(directory) / "collector.yaml"
        configuration.write_text(
            CONFIGURATION.format(port=port, zipkin_port=zipkin.port, storage=storage, directory=directory)
        )
        process = subprocess.Popen([collector, "--config", str(configuration)])
        while True:
            assert process.poll() is None, "the Collector ended"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.1)
        cost = measured(process.pid, zipkin, spans, lambda: post_bodies(port, CONNECTIONS, spans, rate))
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    zipkin.end()
    return cost


def main() -> None:
    """Print the medians and the ratios, and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collector", default=os.environ.get("OTELCOL", ""))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spans", type=int, default=80_000)
    parser.add_argument("--rate", type=int, default=8_000)
    options = parser.parse_args()
    if not options.collector:
        print("agent_collector: there is no Collector to compare with; name one by OTELCOL")
        return
    spans, rate = options.spans, options.rate
    candidates: dict[str, Callable[[], Cost]] = {
        "kaspan, rings": lambda: by_agent("ring", spans, rate),
        "kaspan, HTTP": lambda: by_agent("http", spans, rate),
        "Collector, memory": lambda: by_collector(options.collector, "", spans, rate),
        "Collector, file": lambda: by_collector(options.collector, ", storage: file_storage", spans, rate),
    }
    print(f"load average {os.getloadavg()[0]:.1f} at the start; {rate} spans/s")
    rounds = [{name: run() for name, run in candidates.items()} for _ in range(options.rounds)]
    result = {
        name: Cost(
            *(statistics.median(column) for column in zip(*(found[name] for found in rounds), strict=True))
        )
        for name in candidates
    }
    print(f"{'':20} {'us/span':>8} {'MB peak':>8} {'x rings':>8} {'x HTTP':>8}")
    for name, cost in result.items():
        ratios = [cost.cpu_us / result[of].cpu_us for of in ("kaspan, rings", "kaspan, HTTP")]
        print(f"{name:20} {cost.cpu_us:8.2f} {cost.peak_mb:8.1f} {ratios[0]:8.1f} {ratios[1]:8.1f}")
    RESULTS.mkdir(exist_ok=True)
    kept = {name: cost._asdict() for name, cost in result.items()}
    (RESULTS / "agent_collector.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
