"""The links of a span store: CPU time to count them once, and the time of a query before and after.

Spans are those of store_spans.py, the same in each run. CPU time is that of `LinkCounter.count`: reading,
decoding, linking and SQLite. Beside it stands the CPU time of decoding the same spans with all their fields.

    python bench/store_links.py [--spans 300000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing

import msgspec
from store_spans import arrivals

from kaspan.store.links import LinkCounter
from kaspan.store.partition_readers import PartitionReaders
from kaspan.store.partitions import list_partitions
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import SpanStore, StoreSettings
from kaspan.wire.span import Span

FOREVER_MS = 4_102_444_800_000
_decode = msgspec.json.Decoder(list[Span]).decode


def fill(settings: StoreSettings, spans: int) -> None:
    store = SpanStore(settings)
    for message in arrivals(spans):
        store.accept(message)
        if store.held_spans >= 8000:
            store.commit()
    store.close()


def cpu_us(spans: int, work: Callable[[], None]) -> float:
    started = time.process_time()
    work()
    return (time.process_time() - started) / spans * 1e6


def decode_all(settings: StoreSettings) -> None:
    readers = PartitionReaders(settings.path, time.monotonic)
    for partition in readers.all():
        for block in partition.names("select id from blocks where not is_open"):
            for part in partition.spans(int(block)):
                _decode(b"[%b]" % part)
    readers.close()


def count_all(settings: StoreSettings) -> None:
    with closing(LinkCounter(settings)) as counter:
        while counter.count(1.0):
            pass


def forget(settings: StoreSettings) -> None:
    for partition in list_partitions(settings.path):
        for suffix in ("", "-wal", "-shm"):
            name = partition.path.removesuffix(".spans") + ".links" + suffix
            if os.path.exists(name):
                os.unlink(name)


def query_ms(settings: StoreSettings) -> tuple[float, int]:
    """Return how long a query takes, the best of five, and how many calls it finds."""
    times = []
    with closing(StoreReader(settings)) as reader:
        for _ in range(5):
            started = time.perf_counter()
            links = reader.get_dependencies(FOREVER_MS, FOREVER_MS)
            times.append((time.perf_counter() - started) * 1e3)
    return min(times), sum(link.call_count for link in links)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--spans", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        settings = StoreSettings(directory, 8 << 30, 1e9)
        fill(settings, options.spans)
        counted, decoded = [], []
        for _ in range(options.rounds):
            forget(settings)
            counted.append(cpu_us(options.spans, lambda: count_all(settings)))
            decoded.append(cpu_us(options.spans, lambda: decode_all(settings)))
        print(
            f"counting {statistics.median(counted):.1f} us/span of CPU (lowest {min(counted):.1f}), "
            f"reading and decoding alone {statistics.median(decoded):.1f} (lowest {min(decoded):.1f}), "
            f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MB resident"
        )
        after_ms, calls = query_ms(settings)
        forget(settings)
        before_ms, _ = query_ms(settings)
        print(f"a query: {after_ms:.0f} ms counted, {before_ms:.0f} ms not counted, {calls} calls")


if __name__ == "__main__":
    main()
