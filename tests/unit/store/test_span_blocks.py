"""How spans are put into blocks: by the hour of their timestamps, by trace, within limits."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from kaspan.store.open_block import MAX_BLOCK_BYTES, MAX_OPEN_PARTS
from kaspan.store.partition_writer import MAX_OPEN_HOURS
from kaspan.store.partitions import list_partitions
from kaspan.store.span_store import SpanStore
from support.stored_spans import FIRST_US, HOUR_US, ids_of_block, rows, settings, span, spans, stored_ids


def stored_rows(path: Path, select: str) -> list[Any]:
    """Return the rows of a query on the only partition."""
    (partition,) = list_partitions(str(path))
    return rows(partition, select)


def test_block_has_spans_of_one_hour(tmp_path: Path) -> None:
    """A host whose clock is wrong does not widen the blocks of the others."""
    store = SpanStore(settings(tmp_path))
    for number in range(1, 101):
        wrong_us = 5 * HOUR_US if number % 10 == 0 else 0
        store.accept(span(number, timestamp=FIRST_US + wrong_us + number))
    store.commit()
    assert stored_rows(tmp_path, "select min_us, max_us, spans from blocks order by id") == [
        (FIRST_US + 1, FIRST_US + 99, 90),
        (FIRST_US + 5 * HOUR_US + 10, FIRST_US + 5 * HOUR_US + 100, 10),
    ]
    store.close()


def test_spans_without_a_timestamp_are_in_blocks_without_a_time(tmp_path: Path) -> None:
    """Zero, a negative time and one that no clock tells count as none; the spans are stored all the same."""
    store = SpanStore(settings(tmp_path))
    for number, timestamp in enumerate([None, 0, -5, 2**63 - 1, FIRST_US], 1):
        store.accept(span(number, timestamp=timestamp))
    store.commit()
    found = stored_rows(tmp_path, "select spans, min_us, max_us from blocks order by spans desc")
    assert found == [(4, None, None), (1, FIRST_US, FIRST_US)]
    assert stored_rows(tmp_path, "select count(*) from traces") == [(5,)]
    store.close()


def test_random_timestamps_do_not_make_a_block_each(tmp_path: Path) -> None:
    """Hours that have no block of their own share one, and the usual hour keeps its own."""
    source, store = random.Random(1), SpanStore(settings(tmp_path))
    for number in range(1, 8_001):
        garbage_us = source.randrange(10**15) if number % 2 else FIRST_US
        store.accept(span(number, timestamp=garbage_us + number))
        if number % 1000 == 0:
            store.commit()
    (blocks,) = stored_rows(tmp_path, "select count(*) from blocks")[0]
    (open_blocks,) = stored_rows(tmp_path, "select count(*) from blocks where is_open")[0]
    assert blocks <= 8_000 / 1024 + 2 * MAX_OPEN_HOURS
    assert open_blocks <= MAX_OPEN_HOURS + 2
    narrow = "select sum(spans) from blocks where max_us - min_us < ?"
    (partition,) = list_partitions(str(tmp_path))
    assert rows(partition, narrow, HOUR_US)[0][0] >= 4_000
    store.close()


def test_hours_with_many_spans_get_the_places(tmp_path: Path) -> None:
    """Wrong clocks whose spans come first do not take the place of the right one's hour."""
    store = SpanStore(settings(tmp_path))
    for hour in range(1, 2 * MAX_OPEN_HOURS):
        store.accept(span(hour, timestamp=FIRST_US + hour * HOUR_US))
    store.accept(spans(1001, 100))
    store.commit()
    (partition,) = list_partitions(str(tmp_path))
    found = rows(
        partition, "select spans from blocks where min_us >= ? and max_us < ?", FIRST_US, FIRST_US + HOUR_US
    )
    assert found == [(100,)]
    store.close()


def test_hour_gets_the_place_of_one_that_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans of many hours, one after the other as after a long outage, are in blocks of one hour each."""
    monkeypatch.setattr("kaspan.store.partition_writer.IDLE_SPANS", 2000)
    store = SpanStore(settings(tmp_path))
    for hour in range(3 * MAX_OPEN_HOURS):
        store.accept(spans(hour * 500 + 1, 500, timestamp=FIRST_US + hour * HOUR_US))
        store.commit()
    (partition,) = list_partitions(str(tmp_path))
    assert rows(partition, "select count(*) from blocks where max_us - min_us >= ?", HOUR_US) == [(0,)]
    assert len(stored_ids(tmp_path)) == 3 * MAX_OPEN_HOURS * 500
    store.close()


def test_many_small_commits_leave_few_bodies(tmp_path: Path) -> None:
    """An open block is written again as one body now and then, so a slow stream makes no small ones."""
    store = SpanStore(settings(tmp_path))
    for number in range(1, 301):
        store.accept(span(number))
        store.commit()
        (bodies,) = stored_rows(tmp_path, "select count(*) from bodies")[0]
        assert bodies <= MAX_OPEN_PARTS
    assert stored_ids(tmp_path) == list(range(1, 301))
    assert stored_rows(tmp_path, "select spans from blocks") == [(300,)]
    store.close()


def test_traces_of_a_commit_are_not_torn_apart(tmp_path: Path) -> None:
    """Spans of one trace that come within one commit are in one block, or in two where one is full."""
    store = SpanStore(settings(tmp_path))
    traces = 2000
    for hop in range(4):
        numbers = range(hop * traces + 1, (hop + 1) * traces + 1)
        store.accept(b",".join(span(number, trace=(number - 1) % traces + 1) for number in numbers))
    store.commit()
    (blocks,) = stored_rows(tmp_path, "select count(*) from blocks")[0]
    (pairs,) = stored_rows(tmp_path, "select count(*) from traces")[0]
    assert blocks == 8
    assert traces <= pairs < traces + blocks
    store.close()


def test_trace_of_a_hundred_thousand_spans_fills_blocks(tmp_path: Path) -> None:
    """A long trace is in the index once for each block."""
    store = SpanStore(settings(tmp_path))
    for first in range(1, 100_000, 1000):
        store.accept(spans(first, 1000, trace=7))
        if first % 10_000 == 1:
            store.commit()
    store.commit()
    assert stored_rows(tmp_path, "select count(*), count(distinct trace) from traces") == [(98, 1)]
    assert len(stored_ids(tmp_path)) == 100_000
    store.close()


def test_large_spans_make_small_blocks(tmp_path: Path) -> None:
    """A block gets no more spans once they are large together, so that a reader can hold it."""
    store = SpanStore(settings(tmp_path))
    store.accept(b",".join(span(number, trace=1, tags={"x": "y" * 300_000}) for number in range(1, 11)))
    store.commit()
    sizes = stored_rows(tmp_path, "select bytes from blocks")
    assert len(sizes) == 3
    assert all(size < MAX_BLOCK_BYTES + 301_000 for (size,) in sizes)
    store.close()


def test_ten_thousand_services_are_listed(tmp_path: Path) -> None:
    """Each service has its row in each of its blocks, and its names once."""
    store = SpanStore(settings(tmp_path))
    for round_ in range(2):
        for first in range(1, 10_001, 100):
            numbers = range(first, first + 100)
            store.accept(
                b",".join(
                    span(
                        round_ * 10_000 + number,
                        name="WORK",
                        localEndpoint={"serviceName": f"Service{number}"},
                    )
                    for number in numbers
                )
            )
            store.commit()
    assert stored_rows(tmp_path, "select count(*), min(name) from service_names") == [(10_000, "service1")]
    assert stored_rows(tmp_path, "select count(*), count(distinct name) from span_names") == [(10_000, 1)]
    assert stored_rows(tmp_path, "select count(*) from services") == [(20_000,)]
    store.close()


def test_values_of_autocomplete_keys_are_collected(tmp_path: Path) -> None:
    """Each value of a key in `autocomplete_keys` is listed once, and no other key's."""
    store = SpanStore(settings(tmp_path, autocomplete_keys=("region", "city")))
    for number, region in enumerate(["eu", "us", "eu", 'a"b'], 1):
        store.accept(span(number, tags={"region": region, "other": str(number)}))
        store.commit()
    assert sorted(stored_rows(tmp_path, "select key, value from tag_values")) == [
        ("region", 'a"b'),
        ("region", "eu"),
        ("region", "us"),
    ]
    store.close()


@pytest.mark.parametrize(
    "garbage",
    [
        b"{",
        b"[]",
        b"1",
        b'{"traceId":"x","id":"1"}',
        b'{"traceId":"1"}',
        b'{"traceId":"1","id":"1"},',
        b"null",
    ],
)
def test_what_is_not_a_span_is_refused(tmp_path: Path, garbage: bytes) -> None:
    """`accept` raises ValueError, and holds none of the message."""
    store = SpanStore(settings(tmp_path))
    with pytest.raises(ValueError):  # noqa: PT011 (each has another text)
        store.accept(span(1) + b"," + garbage)
    assert store.held_spans == 0
    store.close()


def test_block_of_a_new_process_goes_on(tmp_path: Path) -> None:
    """What the index says of a block that was filled by two processes is true of all its spans."""
    for first, name in ((1, "a"), (501, "b"), (1001, "c")):
        store = SpanStore(settings(tmp_path))
        store.accept(spans(first, 500, name=name, timestamp=FIRST_US + first))
        store.close()
    (first_block, *_) = stored_rows(tmp_path, "select id, spans, min_us, max_us, is_open from blocks")
    assert first_block == (1, 1024, FIRST_US + 1, FIRST_US + 1001, 0)
    (partition,) = list_partitions(str(tmp_path))
    assert sorted(ids_of_block(partition, 1)) == list(range(1, 1025))
    assert sorted(stored_ids(tmp_path)) == list(range(1, 1501))
