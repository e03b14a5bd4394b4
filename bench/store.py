"""The span store: CPU time to take a span in, its size on disk, and memory.

Spans are those of store_spans.py, the same in each run. CPU time is that of `accept` and `commit`: decoding,
index, compression and SQLite, without making the spans. A store that is kept can be measured by others.

    python bench/store.py [--spans 1000000] [--store DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from store_spans import arrivals

from kaspan.store.span_store import SpanStore, StoreSettings

COMMIT_SPANS = 8_000
"""How many spans a commit has: what the agent commits in one second at 8,000 spans a second."""
RESULTS = Path(__file__).parent / "results"
STORE = {"max_bytes": 8 << 30, "max_age_s": 1e9}


class Ingest(NamedTuple):
    """The measurements of one run; the CPU times are medians over the commits, and the lowest of them."""

    spans: int
    cpu_us: float
    cpu_lowest_us: float
    spans_per_s: float
    bytes_per_span: float
    partitions: int
    rss_mb: float

    def line(self) -> str:
        """Return the run as text."""
        return (
            f"{self.spans} spans: {self.cpu_us:.1f} us/span of CPU (lowest {self.cpu_lowest_us:.1f}), "
            f"{self.spans_per_s:.0f} spans/s, {self.bytes_per_span:.0f} bytes/span in {self.partitions} "
            f"partitions, {self.rss_mb:.0f} MB resident"
        )


def fill(directory: str, spans: int) -> Ingest:
    """Write so many spans into an empty store, and measure that."""
    store = SpanStore(StoreSettings(directory, **STORE))
    costs_us: list[float] = []
    cpu_s = wall_s = 0.0
    for message in arrivals(spans):
        started = time.process_time(), time.perf_counter()
        store.accept(message)
        held = store.held_spans
        if held >= COMMIT_SPANS:
            store.commit()
        cpu_s += time.process_time() - started[0]
        wall_s += time.perf_counter() - started[1]
        if held >= COMMIT_SPANS:
            costs_us.append(cpu_s / held * 1e6)
            cpu_s = 0.0
    store.close()
    totals = store.totals
    size = sum(entry.stat().st_size for entry in os.scandir(directory))
    rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Ingest(
        totals.spans,
        statistics.median(costs_us),
        min(costs_us),
        totals.spans / wall_s,
        size / totals.spans,
        totals.partitions,
        rss_mb,
    )


def main() -> None:
    """Print what it takes to store spans, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--store", help="an empty directory in which the store is kept")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} at the start")
    with tempfile.TemporaryDirectory() as directory:
        found = fill(options.store or directory, max(options.spans, 2 * COMMIT_SPANS))
    print(found.line())
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "store.json").write_text(json.dumps(found._asdict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
