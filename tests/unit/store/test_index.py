"""What the index says of a block: it leaves out no span, however the span's JSON is written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kaspan.store.blocks import decompress_spans
from kaspan.store.normal_form import decode_spans
from kaspan.store.partitions import list_partitions
from kaspan.store.query_request import local_service, remote_service
from kaspan.store.schema import MAX_PARTS, MAX_TIMESTAMP_US, duration_bit, trace_key
from kaspan.store.span_store import SpanStore
from kaspan.store.terms import find_blocks, name_term, remote_term, tag_term, word_term
from kaspan.wire.span import Span
from support.span_strategies import SPANS
from support.store_clock import StoreClock
from support.stored_spans import settings

SEPARATORS = [(",", ":"), (", ", ": "), (" , ", " : "), (",", ": "), (" , ", ":"), (",\t", ":\t")]
PLAIN = {"traceId": "1", "id": "1", "tags": {"a": "b", "c": "d"}}
WAYS = st.lists(st.tuples(st.sampled_from(SEPARATORS), st.booleans()), min_size=1, max_size=4)
TRICKY = {
    "traceId": "1",
    "id": "1",
    "tags": {",": ":", '","': '":"', ":": ",", "": "", "a": 'x","b', " ": "\\"},
}


def written(spans: list[dict[str, Any]], ways: list[tuple[tuple[str, str], bool]]) -> bytes:
    """Write spans as different clients do: with blanks or without, in ASCII or in UTF-8."""
    texts = []
    for number, found in enumerate(spans):
        separators, is_ascii = ways[number % len(ways)]
        texts.append(json.dumps(found, separators=separators, ensure_ascii=is_ascii))
    return ",".join(texts).encode()


def blocks_of(connection: sqlite3.Connection) -> Iterator[tuple[int, Span]]:
    """Yield each span with its block."""
    for part, body in connection.execute("select id, body from bodies").fetchall():
        for found in decode_spans(decompress_spans(body)):
            yield part // MAX_PARTS, found


def check_times(row: Any, found: Span) -> None:
    """Check that bounds and durations of a row include a span."""
    min_us, max_us, durations = row
    if found.timestamp and found.timestamp <= MAX_TIMESTAMP_US:
        assert min_us <= found.timestamp <= max_us
    if found.duration:
        assert durations & duration_bit(found.duration)


def check_names(connection: sqlite3.Connection, service: str, found: Span) -> None:
    """Check that the names of a span are listed under its service."""
    select = "select id from service_names where name = ?"
    (service_id,) = connection.execute(select, (service,)).fetchone()
    for table, name in (("span_names", found.name), ("remote_service_names", remote_service(found))):
        if name is not None:
            names = connection.execute(f"select name from {table} where service = ?", (service_id,))  # noqa: S608
            assert (name,) in names.fetchall()


def terms_of(found: Span) -> Iterator[bytes]:
    """Yield all that a search may ask a span for."""
    for key, value in found.tags.items():
        yield tag_term(key, value)
        yield word_term(key)
    yield from (word_term(annotation.value) for annotation in found.annotations)
    if found.name is not None:
        yield name_term(found.name)
    remote = remote_service(found)
    if remote is not None:
        yield remote_term(remote)


@given(st.lists(SPANS, min_size=1, max_size=8), WAYS)
@example([PLAIN], [((",", ": "), False)])
@example([PLAIN], [((" , ", ":"), False)])
@example([TRICKY], [((",", ":"), False)])
@example([TRICKY], [((", ", ": "), True)])
@hypothesis_settings(max_examples=60, deadline=None)
def test_index_leaves_out_no_span(
    spans: list[dict[str, Any]], ways: list[tuple[tuple[str, str], bool]]
) -> None:
    """Trace, service, time, duration, names and terms of each span lead to its block, in normal form."""
    with TemporaryDirectory() as directory:
        clock = StoreClock()
        store = SpanStore(settings(Path(directory)), clock.clock_s, clock.boot_clock_s)
        store.accept(written(spans, ways))
        store.commit()
        clock.advance(1e9)  # the partition is old enough to be sealed, with all its blocks
        store.commit()
        store.close()
        (partition,) = list_partitions(directory)
        with closing(sqlite3.connect(f"file:{partition.path}?immutable=1", uri=True)) as connection:
            stored = list(blocks_of(connection))
            assert len(stored) == len(spans)
            for block, found in stored:
                check(connection, block, found)


def check(connection: sqlite3.Connection, block: int, found: Span) -> None:
    """Check that everything in the index leads from a span to its block."""
    trace = trace_key(found.trace_id)
    assert connection.execute("select 1 from traces where trace = ? and block = ?", (trace, block)).fetchone()
    times = "select min_us, max_us, durations from blocks where id = ?"
    check_times(connection.execute(times, (block,)).fetchone(), found)
    service = local_service(found)
    for term in terms_of(found):
        assert block in find_blocks(connection, term)
        assert block in find_blocks(connection, term, service or "")
    if service is not None:
        times = (
            "select s.min_us, s.max_us, s.durations from services s join service_names n on n.id = s.service "
            "where n.name = ? and s.block = ?"
        )
        check_times(connection.execute(times, (service, block)).fetchone(), found)
        check_names(connection, service, found)
