"""What a store answers, on files that the store's writer wrote."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaspan.store.normal_form import decode_spans
from kaspan.store.query_request import QueryRequest
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import StoreSettings
from kaspan.wire.span import Span
from support.in_memory_storage import InMemoryStorage
from support.written_store import write_partition

NOW_MS = 1_700_000_000_000
HOUR_US = 3_600_000_000

NAMES = st.sampled_from(["a", "B", "", "svc"])
TIMES = st.builds(
    lambda hours, offset_us: NOW_MS * 1000 + hours * HOUR_US + offset_us,
    st.integers(-2, 1),
    st.sampled_from([0, 1, 999, 1000, 5000]) | st.integers(0, 10_000_000),
)
ENDPOINTS = st.fixed_dictionaries({}, optional={"serviceName": NAMES})
TRACE_IDS = st.sampled_from(["1", "a" * 16, "b" * 16 + "a" * 16, "c" * 16 + "a" * 16, "d" * 32, "e" * 16])
PAYLOADS: st.SearchStrategy[Payload] = st.fixed_dictionaries(
    {"traceId": TRACE_IDS, "id": st.sampled_from(["1", "2", "3", "4"])},
    optional={
        "parentId": st.sampled_from(["1", "2"]),
        "name": NAMES,
        "timestamp": TIMES,
        "duration": st.sampled_from([1, 10, 11, 16, 1000]),
        "localEndpoint": ENDPOINTS,
        "remoteEndpoint": ENDPOINTS,
        "annotations": st.lists(
            st.fixed_dictionaries({"timestamp": TIMES, "value": st.sampled_from(["x", "y"])}), max_size=2
        ),
        "tags": st.dictionaries(
            st.sampled_from(["x", "y", "error"]), st.sampled_from(["", "1", "2"]), max_size=2
        ),
    },
)
REQUESTS = st.builds(
    lambda durations, **values: QueryRequest(**values, **durations),
    end_ts_ms=st.sampled_from([NOW_MS, NOW_MS + 5, NOW_MS + 2 * 3_600_000]),
    lookback_ms=st.sampled_from([1, 10, 3_600_000, 10 * 3_600_000]),
    limit=st.sampled_from([1, 2, 10]),
    service_name=st.none() | st.sampled_from(["a", "b", "svc", "other"]),
    remote_service_name=st.none() | st.sampled_from(["a", "b"]),
    span_name=st.none() | st.sampled_from(["a", "svc"]),
    annotation_query=st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["", "1"]), max_size=2),
    durations=st.sampled_from(
        [
            {},
            {},
            {"min_duration_us": 10},
            {"min_duration_us": 10, "max_duration_us": 12},
            {"min_duration_us": 12},
        ]
    ),
)
EXAMPLES = settings(
    max_examples=int(os.environ.get("KASPAN_TEST_STORES", "30")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

Payload = dict[str, Any]
Partitions = list[list[list[Payload]]]


def with_one_hour_of_roots(payload: Payload) -> Payload:
    """Give a span a parent if its time is not in the hour in which its trace may have roots.

    Which root came first decides a trace's time. The store knows it only among spans of one hour. A span that
    is its own parent has none.
    """
    hour = payload.get("timestamp", 0) // HOUR_US
    is_root_hour = hour % 2 == int(payload["traceId"][-1], 16) % 2
    is_root = payload.get("parentId") in (None, payload["id"])
    return payload | {"parentId": "9"} if is_root and not is_root_hour else payload


PARTITIONS: st.SearchStrategy[Partitions] = st.lists(
    st.lists(st.lists(PAYLOADS.map(with_one_hour_of_roots), max_size=6), min_size=1, max_size=3),
    min_size=1,
    max_size=3,
)


def settings_of(path: str, **changes: Any) -> StoreSettings:
    return StoreSettings(path, max_bytes=1 << 30, max_age_s=1e9, **changes)


def written(spans: Sequence[dict[str, Any]]) -> list[bytes]:
    return [json.dumps(span).encode() for span in spans]


def comparable(traces: Sequence[Sequence[Span]]) -> list[list[list[str]]]:
    """Return traces in their order, those of the same lower 64 bits together: theirs is that of arrival."""
    groups = itertools.groupby(traces, key=lambda trace: trace[0].trace_id[-16:])
    return [sorted(sorted(map(repr, trace)) for trace in group) for _, group in groups]


def stored(
    directory: str, partitions: Partitions, strict: bool = True, keys: Sequence[str] = ()
) -> InMemoryStorage:
    """Write a store, and return Zipkin's storage with the same spans."""
    model = InMemoryStorage(strict, keys)
    for number, commits in enumerate(partitions, 1):
        is_last = number == len(partitions)
        partition = write_partition(directory, number, map(written, commits), not is_last, keys)
        if is_last:
            partition.close()
        for spans in commits:
            model.accept(decode_spans(b",".join(written(spans))))
    return model


@EXAMPLES
@given(partitions=PARTITIONS, requests=st.lists(REQUESTS, min_size=1, max_size=5), strict=st.booleans())
def test_a_search_finds_what_zipkin_finds(
    partitions: Partitions, requests: list[QueryRequest], strict: bool
) -> None:
    """The same traces in the same order, however the spans came and into whichever partitions."""
    with TemporaryDirectory() as directory:
        model = stored(directory, partitions, strict)
        with closing(StoreReader(settings_of(directory, strict_trace_id=strict))) as reader:
            for request in requests:
                assert comparable(reader.get_traces(request)) == comparable(model.get_traces(request))


@EXAMPLES
@given(partitions=PARTITIONS, strict=st.booleans())
def test_traces_are_found_by_id(partitions: Partitions, strict: bool) -> None:
    """The distinct spans of a trace, by an id of any case and length; nothing for an unknown one."""
    with TemporaryDirectory() as directory:
        model = stored(directory, partitions, strict)
        with closing(StoreReader(settings_of(directory, strict_trace_id=strict))) as reader:
            for trace_id in ["1", "A" * 16, "b" * 16 + "a" * 16, "f" * 32, "0" * 31 + "1"]:
                found = [span for portion in reader.get_trace(trace_id) for span in portion]
                assert sorted(map(repr, found)) == sorted(map(repr, model.get_trace(trace_id.lower())))


@EXAMPLES
@given(
    partitions=PARTITIONS,
    trace_ids=st.lists(TRACE_IDS | st.just("f" * 32), max_size=6),
    strict=st.booleans(),
)
def test_many_traces_are_found_by_their_ids(
    partitions: Partitions, trace_ids: list[str], strict: bool
) -> None:
    """Each trace that is in the store once, in the order in which they were asked for."""
    with TemporaryDirectory() as directory:
        model = stored(directory, partitions, strict)
        with closing(StoreReader(settings_of(directory, strict_trace_id=strict))) as reader:
            found = list(reader.get_trace_many(trace_ids))
            assert comparable(found) == comparable(model.get_trace_many(trace_ids))


@EXAMPLES
@given(partitions=PARTITIONS, keys=st.lists(st.sampled_from(["x", "error", "never"]), unique=True))
def test_names_are_those_of_all_partitions(partitions: Partitions, keys: list[str]) -> None:
    """Services, their span names and remote services, and values of the chosen tags, sorted."""
    with TemporaryDirectory() as directory:
        model = stored(directory, partitions, keys=keys)
        with closing(StoreReader(settings_of(directory, autocomplete_keys=tuple(keys)))) as reader:
            assert reader.get_service_names() == model.get_service_names()
            for service in ("a", "B", "svc", "other", ""):
                assert reader.get_span_names(service) == model.get_span_names(service)
                assert reader.get_remote_service_names(service) == model.get_remote_service_names(service)
            assert reader.get_autocomplete_keys() == keys
            for key in ("x", "y", "error"):
                assert reader.get_autocomplete_values(key) == model.get_autocomplete_values(key)


def test_nothing_is_found_where_no_store_is(tmp_path: Path) -> None:
    """A store that nobody has written yet is empty."""
    with closing(StoreReader(settings_of(str(tmp_path / "none")))) as reader:
        assert reader.get_traces(QueryRequest(NOW_MS, 1)) == []
        assert list(reader.get_trace("1")) == []
        assert reader.get_service_names() == []


def test_without_search_only_ids_find_traces(tmp_path: Path) -> None:
    """Where search is off, no search and no list of names has anything."""
    span = {"traceId": "1", "id": "1", "timestamp": NOW_MS * 1000, "localEndpoint": {"serviceName": "a"}}
    stored(str(tmp_path), [[[span]]])
    with closing(
        StoreReader(settings_of(str(tmp_path), search_enabled=False, autocomplete_keys=("x",)))
    ) as reader:
        assert len(list(reader.get_trace("1"))) == 1
        assert reader.get_traces(QueryRequest(NOW_MS, 1)) == []
        assert reader.get_service_names() == reader.get_span_names("a") == []
        assert reader.get_autocomplete_keys() == reader.get_autocomplete_values("x") == []
