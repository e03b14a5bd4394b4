"""How the cost of tracing and its memory grow with the number of topics and of records: they should not.

A plain and a traced process take turns with slices of 1,000 records, without a broker (as
bench/interceptor.py --null). The result is the CPU time that tracing adds to a record: the difference of
the lower quartiles over slices. The median would be no measure: other work on the machine nearly doubles
many slices. The ring is emptied after each slice. At the end it must have taken a span for each record.

    python bench/interceptor_scaling.py [--slices 200] [--records 1000000]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from interceptor import RESULTS

from kaspan.wire import ring

SLICE_RECORDS = 1_000
"""Their spans fit into a ring of 4 MiB."""
PART_RECORDS = 50_000
"""The number of records in each comparison, at the start and at the end of the long run, and of the
warm-up.
"""
TOPICS = (1, 10, 50)
OPERATIONS = ("send", "receive")
FIRST = "first"

Rows = dict[str, dict[str, float]]
"""The figures of the table, by row and column."""


class Worker:
    """One process, plain or traced."""

    def __init__(self, variant: str, ring_dir: Path) -> None:
        self._ring_dir = ring_dir
        self._is_traced = variant != "plain"
        script = Path(__file__).with_name("interceptor_scaling_worker.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), variant, str(SLICE_RECORDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"KASPAN_INTERCEPTOR__RING_DIR": str(ring_dir), "KASPAN_SERVICE": "bench"},
            text=True,
        )
        self.rss_kib = 0
        self._records = 0

    def run(self, what: str, topics: int) -> float:
        """Run one slice; returns the CPU microseconds a record."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, topics, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"a worker ended with code {self._process.wait(30)}")
        self._records += SLICE_RECORDS
        self.rss_kib = int(answer.split()[1])
        self._empty()
        return float(answer.split()[0])

    def _empty(self) -> None:
        for path in self._ring_dir.glob("*.ring"):
            descriptor = os.open(path, os.O_RDWR)
            os.pwrite(descriptor, os.pread(descriptor, 8, ring.WRITE_POS), ring.READ_POS)
            os.close(descriptor)

    def run_all(self, topics: int, records: int) -> None:
        """Send and receive `records` records, by slices in turn."""
        for _ in range(0, records, SLICE_RECORDS):
            for what in OPERATIONS:
                self.run(what, topics)

    def end(self) -> None:
        """End the process by closing its standard input. Raises SystemExit unless it wrote a span for each
        record.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        written = dropped = 0
        for path in self._ring_dir.glob("*.ring"):
            header = path.read_bytes()[: ring.HEADER_BYTES]
            written += int.from_bytes(header[ring.WRITTEN_SPANS :][:8], "little")
            dropped += int.from_bytes(header[ring.DROPPED_SPANS :][:8], "little")
        if (written, dropped) != (self._records if self._is_traced else 0, 0):
            raise SystemExit(f"{self._records} records, {written} spans written, {dropped} dropped")


def added_us(plain_us: list[float], traced_us: list[float]) -> float:
    """The time that tracing adds to a record: the difference of the lower quartiles over slices."""
    return statistics.quantiles(traced_us, n=4)[0] - statistics.quantiles(plain_us, n=4)[0]


def measure_topics(directory: Path, slices: int) -> Rows:
    """Compare numbers of topics in one process; its memory includes the topics of the rows before."""
    plain, traced = Worker("plain", directory / "none"), Worker("traced", directory / "topics")
    found: Rows = {}
    for topics in TOPICS:
        for worker in (plain, traced):
            worker.run_all(topics, PART_RECORDS)
        found[_topics(topics)] = {"rss_mib": traced.rss_kib / 1024}
    for what in OPERATIONS:
        costs_us: dict[tuple[int, Worker], list[float]] = defaultdict(list)
        for number in range(slices):
            for topics in TOPICS[:: 1 if number % 2 else -1]:
                for worker in (plain, traced):
                    costs_us[topics, worker].append(worker.run(what, topics))
        for topics in TOPICS:
            found[_topics(topics)][f"{what}_us"] = added_us(costs_us[topics, plain], costs_us[topics, traced])
    plain.end()
    traced.end()
    return found


def _topics(count: int) -> str:
    return f"{count} topic{'s' if count > 1 else ''}"


def measure_records(directory: Path, records: int) -> Rows:
    """Compare the last of `records` records sent and received with the first ones, after a warm-up.

    Another process, which starts late, has the first ones: so both are measured at the same time.
    """
    old = Worker("traced", directory / "old")
    old.run_all(1, records - PART_RECORDS)
    plain, young = Worker("plain", directory / "none"), Worker("traced", directory / "young")
    for worker in (plain, young):
        worker.run_all(1, PART_RECORDS)
    costs_us: dict[tuple[str, Worker], list[float]] = defaultdict(list)
    for _ in range(0, PART_RECORDS, SLICE_RECORDS):
        for what in OPERATIONS:
            for worker in (plain, young, old):
                costs_us[what, worker].append(worker.run(what, 1))
    found: Rows = {}
    for name, worker in ((f"{FIRST} {PART_RECORDS:,} records", young), (f"last of {records:,}", old)):
        found[name] = {"rss_mib": worker.rss_kib / 1024}
        for what in OPERATIONS:
            found[name][f"{what}_us"] = added_us(costs_us[what, plain], costs_us[what, worker])
    for worker in (plain, young, old):
        worker.end()
    return found


def table(rows: Rows) -> str:
    """Format the table: each figure, and its ratio to the reference row."""
    lines = [f"  {'':22} {'send':>14} {'receive':>14} {'RSS, MiB':>14}"]
    first = next(iter(rows.values()))
    for name, of in rows.items():
        if name.startswith(FIRST):
            first = of
        cells = [
            f"{of[key]:7.2f} {of[key] / first[key]:6.2f}" for key in ("send_us", "receive_us", "rss_mib")
        ]
        lines.append(f"  {name:22} {' '.join(cells)}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write it to a file."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--slices", type=int, default=200)
    arguments.add_argument("--records", type=int, default=1_000_000)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        found = measure_topics(Path(directory), options.slices)
        found |= measure_records(Path(directory), options.records)
    print("interceptor, scaling: CPU us that tracing adds to a record, and the ratio to the reference row")
    print(table(found))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "interceptor-scaling.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
