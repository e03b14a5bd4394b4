"""Dependencies of a store, beside all its traces linked at once."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.insight.links import DependencyLink, DependencyLinker
from kaspan.store import changed_traces, link_counts, links, open_block
from kaspan.store.limits import Limits, QueryLimitError
from kaspan.store.link_counts import links_path
from kaspan.store.links import LinkCounter, Window, minutes_of
from kaspan.store.normal_form import decode_spans
from kaspan.store.partition_reader import PartitionReader
from kaspan.store.partitions import list_files, list_partitions
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import StoreSettings
from kaspan.wire.span import Span
from support.trace_strategies import spans
from support.written_store import write_partition

Payload = dict[str, Any]
Partitions = list[list[list[Payload]]]
"""JSON spans, in commits, in partitions."""

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
FOREVER_MS = 4_102_444_800_000
TRACE_IDS = ["a", "0000000000000001000000000000000a", "1000000000000000000000000000000a", "b" * 16, "c"]
MINUTES = st.integers(0, 3).map(lambda minutes: (NOW_MS + minutes * 60_000) * 1000)


def timed(span: Payload, timestamp_us: int | None) -> Payload:
    return {**span, "timestamp": timestamp_us} if timestamp_us is not None else span


SPANS = st.builds(timed, spans(TRACE_IDS), MINUTES)
"""Spans of one hour, so that they are stored in the order in which they come."""
MESSAGES = st.builds(
    lambda number, kind, trace_id, timestamp_us: {
        "traceId": trace_id,
        "id": f"{number + 1:x}",
        "kind": kind,
        "timestamp": timestamp_us,
        "localEndpoint": {"serviceName": "orders"},
        "remoteEndpoint": {"serviceName": "kafka"},
    },
    st.integers(0, 2**32),
    st.sampled_from(["PRODUCER", "CONSUMER"]),
    st.sampled_from(TRACE_IDS),
    MINUTES,
)


def without_later_copies(partitions: Partitions) -> Partitions:
    """Leave out messages of which an earlier partition has a copy, also one with more of the trace id."""
    seen: set[tuple[str, str]] = set()
    kept: Partitions = []
    for commits in partitions:
        kept.append([[span for span in commit if _name(span) not in seen] for commit in commits])
        seen |= {_name(span) for commit in commits for span in commit}
    return kept


def _name(message: Payload) -> tuple[str, str]:
    return message["traceId"].zfill(16)[-16:], message["id"]


def stores(payloads: st.SearchStrategy[Payload]) -> st.SearchStrategy[Partitions]:
    commits = st.lists(st.lists(payloads, max_size=6), max_size=3)
    return st.lists(commits, min_size=1, max_size=4)


@contextmanager
def store(partitions: Partitions, seal_last: bool) -> Iterator[StoreSettings]:
    """Write a store with blocks of three spans, counted in groups of two blocks."""
    with (
        TemporaryDirectory() as directory,
        mock.patch.object(open_block, "MAX_BLOCK_SPANS", 3),
        mock.patch.object(links, "GROUP_BLOCKS", 2),
    ):
        for number, commits in enumerate(partitions, 1):
            written = [[json.dumps(span).encode() for span in commit] for commit in commits]
            is_last = number == len(partitions)
            partition = write_partition(directory, number, written, seal=seal_last or not is_last)
            if is_last and not seal_last:
                partition.close()
        yield StoreSettings(directory, 1 << 30, 1e9)


def answer(
    settings: StoreSettings, end_ms: int = FOREVER_MS, lookback_ms: int = FOREVER_MS
) -> list[DependencyLink]:
    with closing(StoreReader(settings)) as reader:
        return reader.get_dependencies(end_ms, lookback_ms)


def count(settings: StoreSettings, groups: int = 1_000_000) -> None:
    """Count some groups of blocks."""
    with closing(LinkCounter(settings)) as counter:
        while groups and counter.count(0.0):
            groups -= 1


def traces(partitions: Partitions) -> list[list[Span]]:
    """Return what a store takes for traces: spans with the same low 64 bits, in partitions without a gap.

    Each distinct span is there once, those of one millisecond together, as in Zipkin's in-memory storage.
    """
    found: list[list[Span]] = []
    last: dict[str, tuple[int, list[Span]]] = {}
    for number, commits in enumerate(partitions):
        payload = b",".join(json.dumps(span).encode() for commit in commits for span in commit)
        for span in decode_spans(payload) if payload else []:
            before, trace = last.get(span.trace_id[-16:], (number, []))
            if number > before + 1 or not trace:
                trace = []
                found.append(trace)
            last[span.trace_id[-16:]] = number, trace
            if span not in trace:
                trace.append(span)
    return [sorted(trace, key=first_of_its_millisecond(trace)) for trace in found]


def first_of_its_millisecond(trace: Sequence[Span]) -> Any:
    order: dict[int, int] = {}
    for span in trace:
        order.setdefault((span.timestamp or 0) // 1000, len(order))
    return lambda span: order[(span.timestamp or 0) // 1000]


def linked(found: Sequence[Sequence[Span]]) -> list[DependencyLink]:
    linker = DependencyLinker()
    for trace in found:
        linker.put_trace(trace)
    return sorted(linker.link(), key=lambda link: (link.parent, link.child))


@settings(max_examples=int(os.environ.get("KASPAN_TEST_STORES", "60")))
@given(partitions=stores(SPANS), seal_last=st.booleans(), counted=st.lists(st.integers(0, 4), max_size=3))
def test_links_are_those_of_all_traces_however_many_blocks_are_counted(
    partitions: Partitions, seal_last: bool, counted: list[int]
) -> None:
    """Any traces, in any commits and partitions, have the same links before, while and after counting."""
    expected = linked(traces(partitions))
    with store(partitions, seal_last) as settings:
        for groups in [0, *counted, 1_000_000]:
            count(settings, groups)
            assert answer(settings) == expected


@settings(max_examples=int(os.environ.get("KASPAN_TEST_STORES", "40")))
@given(
    partitions=stores(SPANS),
    end_ms=st.integers(NOW_MS - 60_000, NOW_MS + 300_000),
    lookback_ms=st.sampled_from([1, 1000, 60_000, 120_000]),
    is_counted=st.booleans(),
)
def test_links_are_of_traces_in_the_time_that_is_asked_for(
    partitions: Partitions, end_ms: int, lookback_ms: int, is_counted: bool
) -> None:
    """A trace counts if a span of it begins in the time; once counted, if one of its minutes is in it."""
    window = Window(end_ms - lookback_ms, end_ms)
    expected = [
        trace
        for trace in traces(partitions)
        if (window.touches(minutes_of(trace)) if is_counted else window.has(trace))
    ]
    with store(partitions, seal_last=True) as settings:
        # The newest partition counts whole groups only, until another one follows it.
        write_partition(settings.path, len(partitions) + 1, [], seal=True)
        if is_counted:
            count(settings)
        assert answer(settings, end_ms, lookback_ms) == linked(expected)


@settings(max_examples=int(os.environ.get("KASPAN_TEST_STORES", "40")))
@given(partitions=stores(SPANS), groups=st.integers(0, 6), minute=st.integers(0, 4), seal_last=st.booleans())
def test_links_since_a_full_minute_are_exact_also_when_some_blocks_are_counted(
    partitions: Partitions, groups: int, minute: int, seal_last: bool
) -> None:
    """What is counted and what is not counted yet are cut at the same time, if that is a full minute."""
    first_ms = (NOW_MS // 60_000 + minute) * 60_000
    window = Window(first_ms, FOREVER_MS)
    with store(partitions, seal_last) as settings:
        count(settings, groups)
        expected = linked([trace for trace in traces(partitions) if window.has(trace)])
        assert answer(settings, FOREVER_MS, FOREVER_MS - first_ms) == expected


@settings(max_examples=int(os.environ.get("KASPAN_TEST_STORES", "40")))
@given(partitions=stores(MESSAGES), deleted=st.integers(0, 4), seal_last=st.booleans())
def test_links_of_a_deleted_partition_go_with_it(
    partitions: Partitions, deleted: int, seal_last: bool
) -> None:
    """When retention deletes partitions, their messages are not counted any more, and all others are.

    But for a message that was delivered twice, into two partitions: it may go with its first copy.
    """
    partitions = without_later_copies(partitions)
    with store(partitions, seal_last) as settings:
        count(settings)
        files = list_files(settings.path)
        for number in sorted(files)[:deleted]:
            for name in files[number].names:
                os.unlink(os.path.join(settings.path, name))
        count(settings)
        assert answer(settings) == linked(traces(partitions[deleted:]))


SERVER = {"traceId": "a", "id": "2", "parentId": "1", "kind": "SERVER", "timestamp": NOW_MS * 1000}
CLIENT = {"traceId": "a", "id": "1", "kind": "CLIENT", "timestamp": NOW_MS * 1000}
CLIENT["localEndpoint"], CLIENT["remoteEndpoint"] = {"serviceName": "web"}, {"serviceName": "proxy"}
SERVER["localEndpoint"] = {"serviceName": "app"}


def test_server_that_comes_after_its_client_was_counted_takes_the_clients_place() -> None:
    """A span that changes what a counted trace says corrects it: the link that it replaces is gone."""
    with store([[[CLIENT]]], seal_last=True) as settings:
        write_partition(settings.path, 2, [], seal=True).close()
        count(settings)
        assert answer(settings) == [DependencyLink("web", "proxy", 1)]
        write_partition(settings.path, 3, [[json.dumps(SERVER).encode()]], seal=True)
        count(settings)
        assert answer(settings) == [DependencyLink("web", "proxy", 1)]
    with store([[[CLIENT]], [[SERVER]]], seal_last=True) as settings:
        count(settings)
        assert answer(settings) == [DependencyLink("web", "app", 1)]


def test_trace_that_rounding_puts_into_the_time_counts_once_with_its_later_spans() -> None:
    """A counted trace, of which only a minute is in the time, is not counted again with later spans."""
    sent = {**CLIENT, "kind": "PRODUCER"}
    later = {**sent, "id": "2", "timestamp": (NOW_MS + 20_000) * 1000}
    with store([[[sent]], [[later]]], seal_last=False) as settings:
        count(settings)
        assert answer(settings, FOREVER_MS, FOREVER_MS - NOW_MS - 10_000) == [
            DependencyLink("web", "proxy", 2)
        ]


def test_no_link_is_negative_when_the_beginning_of_its_trace_was_deleted() -> None:
    """A correction outlives what it corrects by at most a trace's time; it never makes a count negative."""
    with store([[[CLIENT]], [[SERVER]]], seal_last=True) as settings:
        write_partition(settings.path, 3, [], seal=True)
        count(settings)
        os.unlink(os.path.join(settings.path, "0000000001.spans"))
        os.unlink(os.path.join(settings.path, "0000000001.links"))
        assert answer(settings) == [DependencyLink("web", "app", 1)]


@pytest.mark.processes
@settings(max_examples=15)
@given(partitions=stores(SPANS), kills=st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=3))
def test_killed_counter_counts_every_span_once(partitions: Partitions, kills: list[tuple[int, bool]]) -> None:
    """A process that is killed before or after it stores counts leaves none out, and has none twice."""
    with store(partitions, seal_last=True) as settings:
        for groups, after_commit in kills:
            child = os.fork()
            if not child:
                count_and_die(settings, groups, after_commit)
            os.waitpid(child, 0)
        assert answer(settings) == linked(traces(partitions))
        count(settings)
        assert answer(settings) == linked(traces(partitions))


def count_and_die(settings: StoreSettings, groups: int, after_commit: bool) -> None:
    """Count some groups and be killed at the next one, before or after its commit."""
    store_counts = link_counts.add_counts

    def add_counts(*arguments: Any) -> None:
        nonlocal groups
        if groups == 0 and not after_commit:
            os.kill(os.getpid(), 9)
        store_counts(*arguments)
        if groups == 0:
            os.kill(os.getpid(), 9)
        groups -= 1

    try:
        links.add_counts = add_counts
        count(settings)
    finally:
        os._exit(0)


def test_damaged_counts_are_made_again() -> None:
    """A damaged file of counts is as if it was not there: queries count for themselves, then it is made."""
    with store([[[CLIENT, SERVER]], []], seal_last=True) as settings:
        count(settings)
        path = Path(links_path(os.path.join(settings.path, "0000000001.spans")))
        path.write_bytes(b"no database" * 1000)
        assert answer(settings) == [DependencyLink("web", "app", 1)]
        count(settings)
        assert answer(settings) == [DependencyLink("web", "app", 1)]
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("select count(*) from blocks").fetchone() == (1,)


def test_counts_that_were_deleted_are_made_again() -> None:
    """Somebody may delete the counts while they are in use."""
    with (
        store([[[CLIENT, SERVER]], []], seal_last=True) as settings,
        closing(LinkCounter(settings)) as counter,
    ):
        counter.count(60.0)
        for partition in list_partitions(settings.path):
            if os.path.exists(links_path(partition.path)):
                os.unlink(links_path(partition.path))
        counter.count(60.0)
        assert os.path.exists(links_path(list_partitions(settings.path)[0].path))
        assert answer(settings) == [DependencyLink("web", "app", 1)]


def test_what_cannot_be_written_is_logged_once_and_counted_by_queries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a full disk nothing is counted, nothing is lost, and the log says it once."""
    with (
        store([[[CLIENT, SERVER]], []], seal_last=True) as settings,
        closing(LinkCounter(settings)) as counter,
    ):
        with mock.patch.object(links, "add_counts", side_effect=sqlite3.OperationalError("disk is full")):
            assert [counter.count(60.0), counter.count(60.0)] == [False, False]
        assert [record.getMessage() for record in caplog.records] == [
            "the links of stored spans cannot be counted: disk is full"
        ]
        assert answer(settings) == [DependencyLink("web", "app", 1)]
        counter.count(60.0)
        assert answer(settings) == [DependencyLink("web", "app", 1)]


@pytest.mark.parametrize("failures", [1, 5])
def test_blocks_that_cannot_be_read_are_not_taken_for_counted(failures: int) -> None:
    """After an error of the disk, blocks are read again; after several, they are left to queries."""
    counted_spans = PartitionReader.counted_spans
    left = failures

    def fail(self: PartitionReader, block: int) -> tuple[int, list[bytes]]:
        nonlocal left
        left -= 1
        self._is_damaged = self._is_damaged or left >= 0
        return (0, []) if self._is_damaged else counted_spans(self, block)

    with (
        store([[[CLIENT, SERVER]], []], seal_last=True) as settings,
        closing(LinkCounter(settings)) as counter,
    ):
        with mock.patch.object(PartitionReader, "counted_spans", fail):
            assert not counter.count(60.0)
        assert os.path.exists(links_path(list_partitions(settings.path)[0].path)) == (failures == 1)
        assert answer(settings) == [DependencyLink("web", "app", 1)]


def test_query_ends_when_too_much_is_not_counted() -> None:
    """A query has a limit of time, also for what nobody has counted yet."""
    with store([[[CLIENT, SERVER]]], seal_last=True) as settings:
        ticks = iter(range(1000))
        with (
            closing(
                StoreReader(settings, Limits(timeout_s=1.0), clock_s=lambda: float(next(ticks)))
            ) as reader,
            pytest.raises(QueryLimitError, match="ask again"),
        ):
            reader.get_dependencies(FOREVER_MS, FOREVER_MS)


def test_earlier_blocks_that_are_read_are_few() -> None:
    """A trace in many blocks is read from the last few of them; of messages no link is lost by that."""
    messages = [
        {**CLIENT, "kind": "PRODUCER", "id": f"{number:x}", "timestamp": NOW_MS * 1000 + number}
        for number in range(1, 60)
    ]
    with (
        mock.patch.object(changed_traces, "EARLIER_BLOCKS", 2),
        store([[[message] for message in messages], []], seal_last=True) as settings,
    ):
        count(settings)
        assert answer(settings) == [DependencyLink("web", "proxy", 59)]


def test_time_must_be_positive() -> None:
    """The errors are Zipkin's."""
    with store([[]], seal_last=False) as settings:
        with pytest.raises(ValueError, match=r"^endTs <= 0$"):
            answer(settings, 0, 1)
        with pytest.raises(ValueError, match=r"^lookback <= 0$"):
            answer(settings, 1, 0)


def test_spans_without_a_timestamp_count_in_times_that_begin_with_the_epoch() -> None:
    """Zipkin's in-memory storage takes their time for 0."""
    message = {**CLIENT, "kind": "PRODUCER"}
    del message["timestamp"]
    with store([[[message]], []], seal_last=True) as settings:
        for _ in range(2):
            assert answer(settings, NOW_MS, NOW_MS) == [DependencyLink("web", "proxy", 1)]
            assert answer(settings, NOW_MS, NOW_MS - HOUR_MS) == []
            count(settings)
