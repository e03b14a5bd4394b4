"""The context goes into a new list of headers; everything else reaches kafka-python as the caller gave it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.kafka_clients import UnconnectedProducer, header

HEADERS: list[tuple[str, bytes]] = [("trace", b"no"), ("tenant", b"7"), ("tenant", b"8")]
TRACE = "463ac35c9f6413ad48485a3953bb6124"
SPAN = "a2fb4a1d1a96d312"
PARENT = f"{TRACE}-{SPAN}-1".encode()

WAYS = {
    "keyword": lambda headers: ((), {"topic": "orders", "value": b"value", "headers": headers}),
    "positional": lambda headers: (("orders", b"value", None, headers), {}),
    "positional with partition": lambda headers: (("orders", b"value", b"key", headers, 1), {}),
    "all positional": lambda headers: (("orders", b"value", b"key", headers, 1, 1700000000000), {}),
    "mixed": lambda headers: (("orders", b"value"), {"headers": headers, "partition": 1}),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_headers_of_the_caller_come_first_and_in_order(application: Any, way: Any) -> None:
    """However they are given, the caller's headers stay as they are, with the b3 header after them."""
    producer = application.producer()
    args, kwargs = way(HEADERS)
    producer.send(*args, **kwargs)

    *first, (key, value) = producer.last.headers

    assert first == HEADERS
    assert key == "b3"
    assert isinstance(value, bytes)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_list_of_the_caller_is_never_changed(application: Any, way: Any) -> None:
    """A list of headers that is used again and again stays as it was, and no context adds up in it."""
    producer = application.producer()
    headers = list(HEADERS)
    args, kwargs = way(headers)
    for _ in range(3):
        producer.send(*args, **kwargs)

    assert headers == HEADERS
    assert [len(appended.headers) for appended in producer.appended] == [4, 4, 4]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_absent_headers_become_the_context_alone(application: Any, way: Any) -> None:
    """With None in the place of headers the record has the one b3 header."""
    producer = application.producer()
    args, kwargs = way(None)
    producer.send(*args, **kwargs)

    assert [key for key, _ in producer.last.headers] == ["b3"]


ODD_HEADERS = {
    "a tuple": tuple(HEADERS),
    "an empty tuple": (),
    "a dict": {"tenant": b"7"},
    "a dict's items": {"tenant": b"7"}.items(),
    "text": "tenant",
    "items that are lists": [["tenant", b"7"]],
    "items of one": [("tenant",)],
    "items of three": [("tenant", b"7", 7)],
    "items that are no pairs": [None],
    "items that are text": ["ab"],
    "a value of text": [("tenant", "7")],
    "a null value": [("tenant", None)],
    "a name of bytes": [(b"tenant", b"7")],
    "a name that cannot be hashed": [([], b"7")],
    "False": False,
    "zero": 0,
}


def outcome(producer: Any, headers: Any) -> tuple[Any, ...]:
    """Say what a send with these headers comes to: the foreign headers, or the exception."""
    try:
        producer.send("orders", b"value", headers=headers)
    except Exception as error:  # noqa: BLE001
        return type(error), str(error)
    return "sent", [pair for pair in producer.last.headers if pair[0] != "b3"]


@pytest.mark.parametrize("headers", ODD_HEADERS.values(), ids=ODD_HEADERS.keys())
def test_headers_of_other_kinds_are_taken_or_refused_as_without_kaspan(
    application: Any, headers: Any
) -> None:
    """What kafka-python makes of headers that are not a list of pairs, it makes of them under kaspan."""
    assert outcome(application.producer(), headers) == outcome(UnconnectedProducer(), headers)


def test_generator_of_headers_is_taken_or_refused_as_without_kaspan(application: Any) -> None:
    """A generator is not used up before kafka-python has seen it."""

    def generator() -> Any:
        yield from HEADERS

    assert outcome(application.producer(), generator()) == outcome(UnconnectedProducer(), generator())


class Tagged(list[Any]):
    """An application's own kind of list."""


@pytest.mark.parametrize("pairs", [HEADERS, []], ids=["with headers", "empty"])
def test_subclass_of_list_is_taken_as_the_list_it_is(
    application: Any, pairs: list[tuple[str, bytes]]
) -> None:
    """An application's own kind of list keeps its pairs, and is not changed."""
    headers = Tagged(pairs)

    assert outcome(application.producer(), headers) == ("sent", pairs)
    assert headers == pairs


@pytest.mark.parametrize("headers", [None, [], HEADERS, [("b3", PARENT), ("tenant", b"7")]])
def test_record_of_a_topic_without_injection_goes_as_the_application_gave_it(
    configured: Any, headers: Any
) -> None:
    """Into records of `propagation.exclude_topics` nothing is injected; their sends are recorded."""
    application = configured(propagation__exclude_topics="[legacy.*]")
    producer = application.producer()
    for _ in range(2):  # the first send of a topic goes another way than the others
        for topic in ("legacy.mail", "orders"):
            producer.send(topic, b"value", headers=headers)
            producer.last.acknowledge()

    assert [appended.headers for appended in producer.appended[::2]] == [headers or []] * 2
    assert all(header(appended) != PARENT for appended in producer.appended[1::2])
    assert [span.name for span in application.take()] == ["send legacy.mail", "send orders"] * 2


def test_nothing_is_injected_either_where_only_the_context_would_be_passed_on(configured: Any) -> None:
    """A topic of which nothing is recorded gets no context of the scope if it is to get none."""
    application = configured(propagation__exclude_topics="[legacy.*]", exclude_topics="[legacy.*]")
    producer = application.producer()
    for _ in application.consumer([application.record()]):
        producer.send("legacy.mail", b"value")

    assert producer.last.headers == []


STALE = {
    "b3": [("b3", PARENT)],
    "b3 twice": [("b3", b"0"), ("b3", PARENT)],
    "X-B3": [("X-B3-TraceId", TRACE.encode()), ("X-B3-SpanId", SPAN.encode()), ("X-B3-Sampled", b"1")],
    "X-B3 with parent and flags": [("X-B3-ParentSpanId", SPAN.encode()), ("X-B3-Flags", b"0")],
    "traceparent": [("traceparent", f"00-{TRACE}-{SPAN}-01".encode()), ("tracestate", b"vendor=1")],
    "malformed": [("b3", b"\xff"), ("traceparent", b"00")],
}


@pytest.mark.parametrize("stale", STALE.values(), ids=STALE.keys())
def test_stale_trace_headers_are_replaced(application: Any, stale: list[tuple[str, bytes]]) -> None:
    """Headers passed on from a received record leave with one context, that of this send."""
    producer = application.producer()
    headers = [HEADERS[0], *stale, *HEADERS[1:]]
    producer.send("orders", b"value", headers=headers)
    producer.last.acknowledge()

    (span,) = application.take()

    assert producer.last.headers == [*HEADERS, ("b3", f"{span.trace_id}-{span.id}-1".encode())]


def test_headers_passed_on_are_the_parent_where_no_span_is_current(application: Any) -> None:
    """A send outside of any span continues the trace that its headers name."""
    producer = application.producer()
    producer.send("orders", b"value", headers=[("b3", PARENT)])
    producer.last.acknowledge()

    (span,) = application.take()

    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)


def test_current_span_wins_over_headers_passed_on(application: Any) -> None:
    """Inside of a loop's body the record in work is the parent, whatever headers are passed on."""
    producer = application.producer()
    for _ in application.consumer([application.record()]):
        producer.send("orders", b"value", headers=[("b3", PARENT)])
        producer.last.acknowledge()

    sent, processed = application.take()

    assert (sent.trace_id, sent.parent_id) == (processed.trace_id, processed.id)
    assert sent.trace_id != TRACE


@pytest.mark.parametrize(("decision", "sampled"), [(b"0", False), (b"1", True), (b"d", True)])
def test_decision_that_came_with_the_headers_is_kept(
    application: Any, configured: Any, decision: bytes, sampled: bool
) -> None:
    """At any rate, a trace that somebody decided on stays as decided."""
    for traced in (application, configured(sampling__rate=0.0)):
        producer = traced.producer()
        for value in (PARENT[:-1] + decision, decision):
            producer.send("orders", b"value", headers=[("b3", value)])
            producer.last.acknowledge()
            assert header(producer.last).rpartition(b"-")[2] == decision

        spans = traced.take()
        assert len(spans) == (2 if sampled else 0)
        assert all(span.debug == (True if decision == b"d" else None) for span in spans)


@pytest.mark.parametrize("api_version", [(0, 8, 2), (0, 9), (0, 10), (0, 10, 2)])
def test_broker_that_knows_no_headers_is_sent_none(application: Any, api_version: tuple[int, ...]) -> None:
    """Below 0.11 a record with headers is an error, so none is added; the span is made all the same."""
    producer = application.producer(api_version=api_version)
    producer.send("orders", b"value")
    producer.last.acknowledge()

    assert producer.last.headers == []
    assert len(application.take()) == 1


@pytest.mark.parametrize("api_version", [(0, 11), (1, 0), (2, 5), (4, 1)])
def test_broker_that_knows_headers_is_sent_the_context(
    application: Any, api_version: tuple[int, ...]
) -> None:
    """From 0.11 on the context goes with the record."""
    producer = application.producer(api_version=api_version)
    producer.send("orders", b"value")

    assert [key for key, _ in producer.last.headers] == ["b3"]


FORMATS: dict[str, list[str]] = {
    "b3": ["b3"],
    "b3multi": ["X-B3-TraceId", "X-B3-SpanId", "X-B3-Sampled"],
    "tracecontext": ["traceparent"],
}


@pytest.mark.parametrize(
    "names", [*itertools.permutations(FORMATS, 1), ("tracecontext", "b3"), tuple(FORMATS)]
)
def test_every_format_asked_for_is_written(configured: Any, names: tuple[str, ...]) -> None:
    """All formats of `inject` are written, in their order, and all name one span."""
    application = configured(propagation__inject=list(names))
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    (span,) = application.take()
    written = dict(producer.last.headers)
    assert [key for key, _ in producer.last.headers] == [key for name in names for key in FORMATS[name]]
    expected = {
        "b3": f"{span.trace_id}-{span.id}-1",
        "X-B3-TraceId": span.trace_id,
        "X-B3-SpanId": span.id,
        "X-B3-Sampled": "1",
        "traceparent": f"00-{span.trace_id}-{span.id}-01",
    }
    assert all(value.decode() == expected[key] for key, value in written.items())


def test_no_format_asked_for_leaves_headers_alone(configured: Any) -> None:
    """With an empty `inject` nothing is added, and no trace header of others is read or removed."""
    application = configured(propagation__inject=[], propagation__extract=[])
    producer = application.producer()
    producer.send("orders", b"value", headers=[*HEADERS, ("b3", PARENT)])
    producer.last.acknowledge()

    assert producer.last.headers == [*HEADERS, ("b3", PARENT)]
    assert application.take()[0].trace_id != TRACE


ARGUMENTS = {
    "topic": st.just("orders"),
    "value": st.none() | st.binary(max_size=8),
    "key": st.none() | st.binary(max_size=8),
    "headers": st.none() | st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=4),
    "partition": st.none() | st.integers(0, 2),
    "timestamp_ms": st.none() | st.integers(0, 1 << 40),
}


@st.composite
def calls(draw: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Make the arguments of a send: any of them by position, any others by keyword, the rest left out."""
    names = list(ARGUMENTS)
    by_position = draw(st.integers(0, len(names)))
    args = tuple(draw(ARGUMENTS[name]) for name in names[:by_position])
    kwargs = {
        name: draw(ARGUMENTS[name]) for name in names[by_position:] if name == "topic" or draw(st.booleans())
    }
    return args, kwargs


def buffered(producer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Say what a send puts into the buffer, trace headers left out, or how it is refused."""
    try:
        producer.send(*args, **kwargs)
    except Exception as error:  # noqa: BLE001
        return type(error), str(error)
    record = producer.last
    headers = [pair for pair in record.headers if pair[0] != "b3"]
    return record.partition, record.timestamp_ms, record.key, record.value, headers


@given(calls())
@settings(max_examples=300)
def test_any_arguments_reach_the_buffer_as_without_kaspan(
    application: Any, call: tuple[tuple[Any, ...], dict[str, Any]]
) -> None:
    """By position or by keyword, in every combination, only the context is added."""
    args, kwargs = call
    given_kwargs = dict(kwargs)

    traced = buffered(application.producer(), args, kwargs)

    assert traced == buffered(UnconnectedProducer(), args, kwargs)
    assert kwargs == given_kwargs


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        (("orders", b"value"), {"topic": "orders"}),
        (("orders", b"value", None, None, 0, None, 7), {}),
        (("orders", b"value"), {"colour": "red"}),
        ((7, b"value"), {}),
        ((None, b"value"), {}),
        ((b"orders", b"value"), {}),
    ],
    ids=["none", "topic twice", "too many", "an unknown one", "a number", "no topic", "a topic of bytes"],
)
def test_wrong_arguments_are_refused_as_without_kaspan(
    application: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """A call that is wrong raises what it raised before, about the same method."""
    plain = buffered(UnconnectedProducer(), args, kwargs)

    traced = buffered(application.producer(), args, kwargs)

    assert traced == plain
