"""How far a search reads, what orders its traces, and how its answer comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kaspan.store import search, trace_reader
from kaspan.store.block_cache import Part
from kaspan.store.limits import Limits, QueryLimitError
from kaspan.store.query_request import QueryRequest
from kaspan.store.reader import StoreReader
from kaspan.store.search import EXTRA_BLOCKS
from kaspan.store.span_store import StoreSettings
from kaspan.wire.span import Span
from support.written_store import write_partition

NOW_MS = 1_700_000_000_000
DAY_MS = 24 * 3_600_000


def span(trace: int, span_id: int = 1, **members: Any) -> bytes:
    """Return a span of a trace, at NOW unless it has another timestamp."""
    found = {"traceId": f"{trace:016x}", "id": f"{span_id:016x}", "timestamp": NOW_MS * 1000}
    return json.dumps(found | members).encode()


def service(name: str) -> dict[str, Any]:
    return {"localEndpoint": {"serviceName": name}}


def written(path: Path, *partitions: Sequence[bytes]) -> StoreSettings:
    """Write partitions, the last of them not sealed."""
    for number, spans in enumerate(partitions, 1):
        is_last = number == len(partitions)
        partition = write_partition(str(path), number, [spans], seal=not is_last)
        if is_last:
            partition.close()
    return StoreSettings(str(path), 1 << 30, 1e9)


def request(**changes: Any) -> QueryRequest:
    return QueryRequest(**({"end_ts_ms": NOW_MS + 60_000, "lookback_ms": DAY_MS} | changes))


def ids(traces: Sequence[Sequence[Span]]) -> list[int]:
    return [int(trace[0].trace_id, 16) for trace in traces]


def test_longest_first_orders_by_the_longest_span_of_a_trace(tmp_path: Path) -> None:
    """The trace with the longest span is first, however many spans it has, and wherever that span is."""
    settings = written(
        tmp_path,
        [span(1, duration=500), span(2, duration=5), span(3, duration=50)],
        [span(2, 2, duration=5000, parentId="1"), span(4)],
    )
    with closing(StoreReader(settings)) as reader:
        assert ids(reader.get_traces(request(order="longest", limit=3))) == [2, 1, 3]


def test_longest_first_looks_only_at_the_service_that_is_asked_for(tmp_path: Path) -> None:
    """With a service, the longest span of that service counts."""
    spans = [
        span(1, duration=10, **service("a")),
        span(1, 2, duration=9000, parentId="1", **service("b")),
        span(2, duration=20, **service("a")),
    ]
    with closing(StoreReader(written(tmp_path, spans))) as reader:
        assert ids(reader.get_traces(request(order="longest", service_name="a"))) == [2, 1]
        assert ids(reader.get_traces(request(order="longest"))) == [1, 2]


@pytest.mark.parametrize("order", ["newest", "longest"])
def test_a_search_of_a_large_store_is_as_exact_as_one_of_a_small_one(tmp_path: Path, order: str) -> None:
    """Where traces are whole in their blocks, the answer is that of a look at all of them."""
    count = 6000
    spans = [
        span(number, timestamp=NOW_MS * 1000 - number * 1000, duration=(number * 7919) % count + 1)
        for number in range(1, count)
    ]
    settings = written(tmp_path, spans[3000:], spans[:3000])
    expected = sorted(range(1, count), key=lambda number: -((number * 7919) % count))
    with closing(StoreReader(settings)) as reader:
        found = ids(reader.get_traces(request(order=order, limit=20)))
    assert found == (list(range(1, 21)) if order == "newest" else expected[:20])


def test_a_span_outside_the_time_of_a_search_leads_to_its_trace(tmp_path: Path) -> None:
    """A trace is in time if its root is; the span that has the tag may be later, in another partition."""
    late = span(1, 2, parentId="1", timestamp=(NOW_MS + 2 * 3_600_000) * 1000, tags={"x": "y"})
    no_time = json.dumps({"traceId": f"{2:016x}", "id": "2", "tags": {"x": "y"}}).encode()
    settings = written(tmp_path, [span(1), span(2)], [late, no_time])
    with closing(StoreReader(settings)) as reader:
        found = reader.get_traces(request(annotation_query={"x": "y"}))
    assert sorted(ids(found)) == [1, 2]


@pytest.mark.parametrize(
    "spelling",
    [
        b'{"traceId":"1","id":"1","timestamp":%d,"tags":{"topic":"orders"}}',
        b'{ "id" : "1" , "traceId" : "1" , "timestamp" : %d , "tags" : { "topic" : "orders" } }',
        b'{"traceId":"1","id":"1","timestamp":%d,"tags":{"t\\u006fpic":"\\u006frders"}}',
        b'{"traceId":"1","id":"1","timestamp":%d,"links":[{"a":{}},{"traceId":"2","id":"3"},{"traceId":"4"}],'
        b'"tags":{"topic":"orders"}}',
    ],
)
def test_a_tag_is_found_however_its_json_is_written(tmp_path: Path, spelling: bytes) -> None:
    """Spaces, the order of members, escapes and members that nobody knows do not hide a tag."""
    others = [span(number) for number in range(2, 50)]
    settings = written(tmp_path, [*others[:20], spelling % (NOW_MS * 1000), *others[20:]])
    with closing(StoreReader(settings)) as reader:
        assert ids(reader.get_traces(request(annotation_query={"topic": "orders"}))) == [1]
        assert [len(portion) for portion in reader.get_trace("1")] == [1]


@pytest.mark.parametrize(
    "spelling",
    [
        b'"duration":2000000',
        b'"duration" :\n 2000000 ',
        b'"duration":"2000000"',
        b'"duration":2e6',
        b'"duration":2000000.0',
        b'"d\\u0075ration":2000000',
    ],
)
def test_a_long_duration_is_found_however_its_json_is_written(tmp_path: Path, spelling: bytes) -> None:
    """Spaces, texts, decimal points, exponents and escapes do not hide a long span, also of one service."""
    ours = b'{"traceId":"1","id":"1","timestamp":%d,"localEndpoint":{"serviceName":"a"},%b}'
    others = [span(number, duration=1_999_999, localEndpoint={"serviceName": "a"}) for number in range(2, 50)]
    settings = written(tmp_path, [*others[:20], ours % (NOW_MS * 1000, spelling), *others[20:]])
    with closing(StoreReader(settings)) as reader:
        for service in (None, "a"):
            found = reader.get_traces(request(min_duration_us=2_000_000, service_name=service))
            assert ids(found) == [1]


def test_a_name_is_found_in_any_case(tmp_path: Path) -> None:
    """Names are compared in lower case, also where a letter beyond ASCII becomes one of ASCII."""
    spans = [span(1, name="GET /A"), span(2, name="\u212aafka"), span(3, name="\u0416\u0416")]
    with closing(StoreReader(written(tmp_path, spans))) as reader:
        for trace, name in enumerate(["get /a", "kafka", "\u0436\u0436"], 1):
            assert ids(reader.get_traces(request(span_name=name))) == [trace]


@pytest.mark.large
def test_a_large_trace_comes_in_portions(tmp_path: Path) -> None:
    """A trace of many spans is read a portion at a time, each span once, and a search finds it too."""
    count = 100_000
    tags = {"note": "x" * 100}
    spans = [span(1, number, tags=tags) for number in range(1, count + 1)]
    settings = written(tmp_path, spans[: count // 2], spans[count // 2 - 1000 :])
    with closing(StoreReader(settings, clock_s=lambda: 0.0)) as reader:
        sizes, seen = [], set()
        for portion in reader.get_trace("1"):
            sizes.append(len(portion))
            seen.update(one.id for one in portion)
        assert (sum(sizes), len(seen)) == (count, count)
        assert max(sizes) * len(spans[0]) <= trace_reader.PORTION_BYTES
        assert len(sizes) > 1
        found = [[*map(len, portions)] for portions in reader.search(request())]
        assert found == [sizes]
        with pytest.raises(QueryLimitError, match="for one trace by its id"):
            reader.get_traces(request())


def test_a_search_yields_many_large_traces_one_after_the_other(tmp_path: Path) -> None:
    """What does not fit in memory is read again for the answer."""
    tags = {"note": "x" * 40_000}
    spans = [span(trace, number, tags=tags) for trace in range(1, 11) for number in range(1, 21)]
    assert sum(map(len, spans)) > search.HELD_BYTES
    with closing(StoreReader(written(tmp_path, spans))) as reader:
        found = [[one for portion in portions for one in portion] for portions in reader.search(request())]
    assert ids(found) == list(range(10, 0, -1))
    assert {len(trace) for trace in found} == {20}


def test_a_query_ends_at_its_deadline(tmp_path: Path) -> None:
    """A query that takes too long raises QueryLimitError, which says what to do."""
    ticks = iter(range(0, 10_000, 5))
    with (
        closing(
            StoreReader(written(tmp_path, [span(1)]), Limits(timeout_s=11), lambda: float(next(ticks)))
        ) as reader,
        pytest.raises(QueryLimitError, match=r"more than 11 seconds\. Ask for less time"),
    ):
        reader.get_traces(request())


def test_the_time_in_which_a_client_takes_a_portion_does_not_count(tmp_path: Path) -> None:
    """A slow client does not make the query fail."""
    now_s = 0.0
    spans = [span(1, number, tags={"note": "x" * 10_000}) for number in range(1, 1200)]
    with closing(StoreReader(written(tmp_path, spans), Limits(timeout_s=11), lambda: now_s)) as reader:
        portions = 0
        for _ in reader.get_trace("1"):
            portions += 1
            now_s += 100
    assert portions > 1


def test_an_answer_has_a_largest_size(tmp_path: Path) -> None:
    """An answer with more bytes of spans than the limit ends with QueryLimitError."""
    spans = [span(1, number) for number in range(1, 100)]
    limits = Limits(max_bytes=1000, max_list_bytes=1000)
    with closing(StoreReader(written(tmp_path, spans), limits)) as reader:
        for ask in (
            lambda: list(reader.get_trace("1")),
            lambda: list(reader.get_trace_many(["1"])),
            lambda: reader.get_traces(request()),
            lambda: [list(portions) for portions in reader.search(request())],
        ):
            with pytest.raises(QueryLimitError, match="more than 1000 bytes of spans"):
                ask()


def test_a_search_reads_few_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest traces are found in the newest blocks, a rare tag in the one block that has it."""
    spans = [
        span(number, timestamp=NOW_MS * 1000 - number * 1000, tags={"offset": str(number)})
        for number in range(1, 20_000)
    ]
    settings = written(tmp_path, spans[::-1])
    read: list[int] = []
    original = Part.__init__
    monkeypatch.setattr(Part, "__init__", lambda *values: (read.append(1), original(*values))[1])
    with closing(StoreReader(settings)) as reader:
        assert len(reader.get_traces(request())) == 10
        assert len(read) <= 2 + EXTRA_BLOCKS  # with the one that is open
        read.clear()
        assert ids(reader.get_traces(request(annotation_query={"offset": "12345"}))) == [12345]
        assert len(read) <= 2  # one block, and the one that is open
