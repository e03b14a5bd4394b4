"""The writing side of the span store."""

from __future__ import annotations

import os
import time
from itertools import pairwise
from pathlib import Path

import pytest

from kaspan.store.partitions import list_partitions
from kaspan.store.span_store import SpanStore, StoreHeld
from support.stored_spans import rows, settings, span, spans, stored_ids


def test_committed_spans_are_read_by_another_process(tmp_path: Path) -> None:
    """What `commit` has returned for is in the files while the writer goes on."""
    store = SpanStore(settings(tmp_path))
    store.accept(spans(1, 5))
    assert store.held_spans == 5
    store.commit()
    assert store.held_spans == 0
    assert stored_ids(tmp_path) == [1, 2, 3, 4, 5]
    store.close()


def test_spans_are_held_until_a_commit(tmp_path: Path) -> None:
    """`accept` writes nothing, and `close` commits."""
    store = SpanStore(settings(tmp_path))
    store.accept(span(1))
    assert stored_ids(tmp_path) == []
    store.close()
    assert stored_ids(tmp_path) == [1]


def test_second_writer_is_told_who_holds_the_store(tmp_path: Path) -> None:
    """Of two processes one writes, and the other names its pid."""
    store = SpanStore(settings(tmp_path))
    with pytest.raises(StoreHeld, match=rf"{tmp_path} is written by another process, pid {os.getpid()}"):
        SpanStore(settings(tmp_path))
    store.close()
    SpanStore(settings(tmp_path)).close()


def test_writer_goes_on_in_the_open_partition_and_block(tmp_path: Path) -> None:
    """A new process fills the partition and the block of the one before."""
    for first in range(0, 50, 10):
        store = SpanStore(settings(tmp_path))
        store.accept(spans(first + 1, 10))
        store.close()
    assert sorted(stored_ids(tmp_path)) == list(range(1, 51))
    (partition,) = list_partitions(str(tmp_path))
    assert rows(partition, "select spans, is_open from blocks") == [(50, 1)]


def test_trace_stands_together_in_a_full_block(tmp_path: Path) -> None:
    """When a block is full its spans are stored by trace."""
    store = SpanStore(settings(tmp_path))
    for first in range(0, 1024, 64):
        store.accept(b",".join(span(number, trace=number % 7 + 1) for number in range(first + 1, first + 65)))
        store.commit()
    ids = stored_ids(tmp_path)
    assert len(ids) == 1024
    traces = [number % 7 for number in ids]
    assert sum(first != second for first, second in pairwise(traces)) == 6
    store.close()


def test_limits_can_be_changed_while_it_is_open(tmp_path: Path) -> None:
    """An operator shortens the age, and what is older goes with the next commit."""
    days = {"max_age_s": 32 * 86_400.0}
    old_s = time.time() - 4 * 86_400
    store = SpanStore(settings(tmp_path, **days), lambda: old_s)
    store.accept(span(1))
    store.close()
    store = SpanStore(settings(tmp_path, **days))  # seals it, since it is more than a day old
    store.accept(span(2))
    store.commit()
    os.utime(list_partitions(str(tmp_path))[0].path, (old_s, old_s))
    assert stored_ids(tmp_path) == [1, 2]
    store.adjust(1 << 40, 86_400.0)
    store.commit()
    assert stored_ids(tmp_path) == [2]
    assert store.totals.deleted_spans == 1
    store.close()
