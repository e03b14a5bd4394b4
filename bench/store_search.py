"""The span store: CPU time of its queries, and memory.

Each kind of query asks for other traces, services, topics and tags in each run, taken from the store, over
all of its time: nothing is found twice in a cache of ours. CPU time is that of the thread.

    python bench/store_search.py [--spans 1000000] [--runs 40] [--store DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import store
from store_spans import FIRST_US, SERVICES, TOPICS

from kaspan.store.limits import Limits
from kaspan.store.partition_readers import PartitionReaders
from kaspan.store.query_request import QueryRequest
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import StoreSettings
from kaspan.wire.span import Span

RESULTS = Path(__file__).parent / "results"


class Queries:
    """The queries over one store."""

    def __init__(self, directory: str) -> None:
        self.reader = StoreReader(StoreSettings(directory, **store.STORE), Limits(timeout_s=600))
        partitions = PartitionReaders(directory, time.monotonic).all()
        last_us = max(partition.bounds().max_us or 0 for partition in partitions)
        self.spans = sum(partition.names("select sum(spans) from blocks")[0] for partition in partitions)
        self.end_ts_ms, self.first_ms = last_us // 1000 + 1, FIRST_US // 1000 - 1
        source = random.Random(3)
        self.ends_ms = [source.randrange(self.first_ms + 60_000, self.end_ts_ms) for _ in range(40)]
        self.samples = [span for end_ms in self.ends_ms if (span := self._sample(end_ms))]

    def _sample(self, end_ms: int) -> Span | None:
        found = self.reader.get_traces(QueryRequest(end_ms, 60_000, limit=1))
        return found[0][-1] if found else None

    def search(self, lookback_ms: int | None = None, end_ms: int | None = None, **conditions: object) -> int:
        """Search from `first_ms` to the end unless told, and return how many traces there are."""
        end_ms = end_ms or self.end_ts_ms
        lookback_ms = lookback_ms or end_ms - self.first_ms
        return len(self.reader.get_traces(QueryRequest(end_ms, lookback_ms, **conditions)))

    def kinds(self) -> dict[str, Callable[[int], int]]:
        """Return the queries: each takes the number of its run and returns how many traces it found."""

        def tag(run: int, key: str) -> dict[str, str]:
            return {key: self.samples[run % len(self.samples)].tags[key]}

        def trace(run: int) -> int:
            return sum(1 for _ in self.reader.get_trace(self.samples[run % len(self.samples)].trace_id))

        def service(run: int) -> str:
            return SERVICES[run * 7 % len(SERVICES)]

        def topic(run: int) -> str:
            return TOPICS[run * 7 % len(TOPICS)]

        hour = 3_600_000
        search = self.search
        return {
            "trace by id": trace,
            "newest": lambda _: search(),
            "service": lambda run: search(service_name=service(run)),
            "service, some hour": lambda run: search(
                hour, self.ends_ms[run % len(self.ends_ms)], service_name=service(run)
            ),
            "topic": lambda run: search(annotation_query={"kafka.topic": topic(run)}),
            "error": lambda _: search(annotation_query={"error": ""}),
            "rare tag": lambda run: search(annotation_query=tag(run, "kafka.key")),
            "offset": lambda run: search(annotation_query=tag(run, "messaging.kafka.offset")),
            "absent tag": lambda run: search(annotation_query={"kafka.key": f"none-{run}"}),
            "service and topic": lambda run: search(
                service_name=service(run), annotation_query={"kafka.topic": TOPICS[run * 7 % len(SERVICES)]}
            ),
            "service and error": lambda run: search(
                service_name=service(run), annotation_query={"error": ""}
            ),
            "topic and offset": lambda run: search(
                annotation_query=tag(run, "kafka.topic") | tag(run, "messaging.kafka.offset")
            ),
            "topic and error": lambda run: search(annotation_query={"kafka.topic": topic(run), "error": ""}),
            "duration from 1 s": lambda _: search(min_duration_us=1_000_000),
            "service, duration from 1 s": lambda run: search(
                service_name=service(run), min_duration_us=1_000_000
            ),
            "longest": lambda _: search(order="longest"),
            "longest of service": lambda run: search(order="longest", service_name=service(run)),
        }


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(query: Callable[[int], int], runs: int) -> dict[str, float]:
    """Return milliseconds of CPU of a query, and how many traces it finds."""
    costs_ms, found = [], 0
    for run in range(runs):
        started = time.thread_time()
        found += query(run)
        costs_ms.append((time.thread_time() - started) * 1e3)
    costs_ms.sort()
    return {
        "median_ms": statistics.median(costs_ms),
        "p95_ms": costs_ms[int(runs * 0.95)],
        "p99_ms": costs_ms[int(runs * 0.99)],
        "found": found / runs,
    }


def main() -> None:
    """Print what queries cost, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--store", help="a store that bench/store.py has kept, in place of a new one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if not options.store:
            store.fill(directory, options.spans)
        queries = Queries(options.store or directory)
        print(f"{queries.spans} spans, load average {os.getloadavg()[0]:.1f} at the start", flush=True)
        results = {}
        for kind, query in queries.kinds().items():
            found = results[kind] = measure(query, options.runs)
            print(
                f"{kind:28} {found['median_ms']:7.1f} ms, p95 {found['p95_ms']:7.1f}, "
                f"p99 {found['p99_ms']:7.1f}, {found['found']:.1f} found",
                flush=True,
            )
        print(f"{resident_mb():.0f} MB resident")
        queries.reader.close()
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "store_search.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
