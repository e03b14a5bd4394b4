"""What is deleted: the oldest partitions, by size and by age."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from kaspan.store.partitions import list_partitions
from kaspan.store.span_store import SpanStore
from support.store_clock import StoreClock
from support.stored_spans import rows, settings, span, spans, stored_ids

DAY_S = 86_400.0
MAX_BYTES = 4 << 20


@pytest.fixture
def clock() -> StoreClock:
    return StoreClock()


def opened(path: Path, clock: StoreClock, **changes: Any) -> SpanStore:
    return SpanStore(settings(path, **changes), clock.clock_s, clock.boot_clock_s)


def store_kilobytes(store: SpanStore, first: int, kilobytes: int) -> None:
    """Store spans that cannot be compressed, each of two kilobytes, with numbers from `first` on."""
    texts = (random.Random(first + number).randbytes(1000).hex() for number in range(kilobytes))
    store.accept(b",".join(span(first + number, tags={"x": text}) for number, text in enumerate(texts)))
    store.commit()


def size(path: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(path))


def test_store_stays_within_its_size(tmp_path: Path, clock: StoreClock) -> None:
    """After each commit the files are within `max_bytes`; the oldest partitions go whole, and are counted."""
    store = opened(tmp_path, clock, max_bytes=MAX_BYTES)
    for round_ in range(60):
        store_kilobytes(store, 1 + round_ * 200, 200)
        assert size(tmp_path) <= MAX_BYTES
        assert abs(store.totals.bytes - size(tmp_path)) < 100  # the lock file is not counted
    ids = stored_ids(tmp_path)
    assert ids == list(range(12_001 - len(ids), 12_001))
    assert store.totals.spans == len(ids)
    assert store.totals.deleted_spans == 12_000 - len(ids)
    assert store.totals.partitions == len(list_partitions(str(tmp_path))) >= 3
    store.close()


def test_partition_goes_when_all_of_it_is_too_old(tmp_path: Path, clock: StoreClock) -> None:
    """A span is kept for `max_age_s`, and not for much longer; no new spans need to come for that."""
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    for hour in range(30):
        store.accept(span(hour + 1))
        store.commit()
        clock.advance(3600.0)
    store.commit()
    ids = stored_ids(tmp_path)
    assert ids[-1] == 30
    assert ids[0] in (6, 7, 8)
    clock.advance(DAY_S + 2 * 3600.0)
    store.commit()
    assert stored_ids(tmp_path) == []
    assert store.totals.deleted_spans == 30
    assert store.totals.spans == store.totals.partitions == 0
    store.close()


def test_clock_that_is_set_forward_deletes_nothing(tmp_path: Path, clock: StoreClock) -> None:
    """A clock that jumps by a day, or from 1970, makes no span older: ages are the time that has passed."""
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    store.accept(spans(1, 3))
    store.commit()
    clock.advance(2 * 3600.0)
    store.commit()
    clock.set(50 * 365 * DAY_S)
    store.commit()
    assert stored_ids(tmp_path) == [1, 2, 3]
    clock.advance(DAY_S / 2)
    store.commit()
    assert stored_ids(tmp_path) == [1, 2, 3]
    clock.advance(DAY_S / 2 + 3600.0)
    store.commit()
    assert stored_ids(tmp_path) == []
    store.close()


def test_clock_that_is_set_back_keeps_nothing_for_longer(tmp_path: Path, clock: StoreClock) -> None:
    """Spans from before a clock was set back are deleted at their age."""
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    store.accept(span(1))
    store.commit()
    clock.advance(2 * 3600.0)
    store.commit()
    clock.set(-10 * DAY_S)
    store.accept(span(2))
    store.commit()
    clock.advance(DAY_S + 60.0)
    store.commit()
    assert stored_ids(tmp_path) == [2]
    store.close()


def test_time_in_the_future_counts_as_that_of_the_next_partition(tmp_path: Path, clock: StoreClock) -> None:
    """A clock that was right again only after a restart does not keep old partitions for ever."""
    clock.set(100 * DAY_S)
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    store.accept(span(1))
    store.commit()
    clock.advance(2 * 3600.0)
    store.close()
    clock.set(-100 * DAY_S)
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    clock.advance(2 * 3600.0)
    store.accept(span(2))
    store.commit()
    clock.advance(2 * 3600.0)
    store.commit()
    clock.advance(DAY_S + 60.0)
    store.commit()
    assert stored_ids(tmp_path) == []
    store.close()


def test_slow_stream_makes_few_partitions(tmp_path: Path, clock: StoreClock) -> None:
    """A store that gets a span a minute has about as many partitions as one that is full."""
    store = opened(tmp_path, clock, max_age_s=2 * DAY_S)
    for minute in range(6 * 24 * 60 // 10):
        store.accept(span(minute + 1))
        store.commit()
        clock.advance(600.0)
    assert 20 < store.totals.partitions < 40
    store.close()


def test_what_belongs_to_a_partition_goes_with_it(tmp_path: Path, clock: StoreClock) -> None:
    """Files that were derived from a partition count towards the size, and are deleted with it."""
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    store.accept(span(1))
    store.commit()
    (partition,) = list_partitions(str(tmp_path))
    derived = Path(partition.path).with_suffix(".links")
    derived.write_bytes(bytes(5_000_000))
    clock.advance(2 * 3600.0)
    store.commit()
    assert store.totals.bytes > 5_000_000
    clock.advance(2 * DAY_S)
    store.commit()
    assert not derived.exists()
    derived.write_bytes(b"made again by a reader")
    store.commit()
    assert not derived.exists()
    store.close()


def test_sealed_partition_is_complete_in_its_file(tmp_path: Path, clock: StoreClock) -> None:
    """A sealed partition has no open block, no write-ahead log, and each block in the index of terms."""
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    store.accept(spans(1, 3000))
    store.commit()
    (partition,) = list_partitions(str(tmp_path))
    clock.advance(2 * 3600.0)
    store.commit()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(("-wal", "-shm"))]
    assert rows(partition, "select is_sealed from state") == [(1,)]
    assert rows(partition, "select is_open, spans from blocks") == [(0, 1024), (0, 1024), (0, 952)]
    assert rows(partition, "select count(*) from block_terms") == [(0,)]
    assert rows(partition, "select length(blocks) / 4 from term_groups") == [(3,)]
    store.accept(span(1))
    store.commit()
    assert store.totals.partitions == 2
    store.close()


def test_reader_in_a_transaction_keeps_nothing_from_being_sealed(tmp_path: Path, clock: StoreClock) -> None:
    """While a reader holds an old view of a partition its log stays; when it has gone, so does the log."""
    store = opened(tmp_path, clock, max_age_s=DAY_S)
    store.accept(span(1))
    store.commit()
    (partition,) = list_partitions(str(tmp_path))
    reader = sqlite3.connect(f"file:{partition.path}?mode=ro", uri=True, isolation_level=None)
    reader.execute("begin")
    reader.execute("select * from blocks").fetchall()
    clock.advance(2 * 3600.0)
    store.accept(span(2))
    store.commit()
    store.accept(span(3))
    store.commit()
    assert stored_ids(tmp_path) == [1, 2, 3]
    log = Path(f"{partition.path}-wal")
    assert log.stat().st_size > 0
    reader.close()
    store.commit()
    assert not log.exists()
    assert stored_ids(tmp_path) == [1, 2, 3]
    store.close()
