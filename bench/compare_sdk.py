"""kaspan compared with OpenTelemetry's SDK and its Zipkin exporter in the application.

Applications take turns in one run, each with a slice of spans. With kaspan, an agent takes the spans out of
a ring and sends them to a Zipkin that only counts; its spool flushes every commit. With OpenTelemetry,
BatchSpanProcessor and opentelemetry-exporter-zipkin-json post them to another such Zipkin. `by hand` makes
spans with nine tags, and nothing else. `traced` is a loop over kafka-python's records, traced by kaspan or
by opentelemetry-instrumentation-kafka-python, minus the cost of the untraced loop. Measured: CPU
microseconds a span, of the application's own thread, of its whole process, and of the process and the agent
together.

    python bench/compare_sdk.py [--slices 15] [--records 2000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent_load import RESULTS, Agent
from load_worker import CountingZipkin, cpu_ns

PAIRS = (("kaspan by hand", "SDK by hand"), ("kaspan traced", "SDK traced"))
UNTRACED = "untraced"
VARIANTS = (UNTRACED, *PAIRS[0], *PAIRS[1])


class Application:
    """One variant: a process that does a slice of spans on request."""

    def __init__(self, name: str, records: int, ring_dir: str, zipkin_port: int) -> None:
        environment = os.environ | {
            "KASPAN_INTERCEPTOR__RING_DIR": ring_dir,
            "KASPAN_SERVICE": "bench",
            "ZIPKIN": f"http://127.0.0.1:{zipkin_port}/api/v2/spans",
        }
        worker = Path(__file__).parent / "compare_sdk_worker.py"
        self._process = subprocess.Popen(
            [sys.executable, str(worker), name, str(records)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.slices: list[tuple[float, float]] = []

    def run(self) -> None:
        """Run one slice and store its cost, of the thread and of the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        thread_us, process_us = map(float, self._process.stdout.readline().split())
        self.slices.append((thread_us, process_us))

    def end(self) -> None:
        """End the process by closing its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)

    def medians_us(self) -> tuple[float, ...]:
        """The medians over the slices, without the first, which is a warm-up."""
        return tuple(statistics.median(column) for column in zip(*self.slices[1:], strict=True))


def measure(slices: int, records: int) -> dict[str, dict[str, float]]:
    """Run all variants in turn; CPU microseconds a span of the thread, the process, and with the agent."""
    zipkin, others = CountingZipkin(), {name: CountingZipkin() for _, name in PAIRS}
    agent_us: dict[str, list[float]] = {name: [] for name, _ in PAIRS}
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as ring_dir,
        tempfile.TemporaryDirectory() as directory,
    ):
        agent = Agent(directory, ring_dir, zipkin.port)
        applications = {
            name: Application(name, records, ring_dir, others.get(name, zipkin).port) for name in VARIANTS
        }
        for _ in range(slices + 1):
            for name, application in applications.items():
                began_ns, before = cpu_ns(agent.pid), zipkin.spans
                application.run()
                if name in agent_us:
                    # The last record's span may end when the next one is asked for.
                    while zipkin.spans < before + records - 1:
                        time.sleep(0.01)
                    agent_us[name].append((cpu_ns(agent.pid) - began_ns) / records / 1000)
        for application in applications.values():
            application.end()
        agent.end()
    assert others["SDK by hand"].spans == (slices + 1) * records, "the exporter lost spans"
    for server in (zipkin, *others.values()):
        server.end()
    return {name: costs(applications, name, agent_us.get(name, [0.0, 0.0])) for name in VARIANTS[1:]}


def costs(applications: dict[str, Application], name: str, agent_us: list[float]) -> dict[str, float]:
    """Subtract the cost of the untraced loop, and add the agent's."""
    thread_us, process_us = applications[name].medians_us()
    if "traced" in name:
        untraced_us = applications[UNTRACED].medians_us()
        thread_us, process_us = thread_us - untraced_us[0], process_us - untraced_us[1]
    return {
        "thread": thread_us,
        "process": process_us,
        "total": process_us + statistics.median(agent_us[1:]),
    }


def main() -> None:
    """Print a line for each variant, with the ratio to kaspan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=15)
    parser.add_argument("--records", type=int, default=2000)
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} at the start; CPU us a span, and the ratio to kaspan")
    costs_us = measure(options.slices, options.records)
    print(f"{'':16} {'its thread':>18} {'its process':>18} {'with the agent':>18}")
    for kaspan, other in PAIRS:
        for name in (kaspan, other):
            columns = [
                f"{cost:9.2f} ({cost / costs_us[kaspan][what]:5.1f})" for what, cost in costs_us[name].items()
            ]
            print(f"{name:16} " + " ".join(f"{column:>18}" for column in columns))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "compare_sdk.json").write_text(json.dumps(costs_us, indent=1) + "\n")


if __name__ == "__main__":
    main()
