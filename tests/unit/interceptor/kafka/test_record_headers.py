"""What a received record's headers say of its trace; nothing in them raises, nothing loses a record."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.ring_reader import current, offsets

TRACE = "463ac35c9f6413ad48485a3953bb6124"
SPAN = "a2fb4a1d1a96d312"
B3 = ("b3", f"{TRACE}-{SPAN}-1".encode())
X_B3 = [("X-B3-TraceId", TRACE.encode()), ("X-B3-SpanId", SPAN.encode()), ("X-B3-Sampled", b"1")]
TRACEPARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01".encode())
OTHER = ("b3", b"ffffffffffffffff-ffffffffffffffff-1")

UNDERSTOOD: dict[str, list[tuple[str, bytes | None]]] = {
    "b3": [B3],
    "b3 among others": [("tenant", b"7"), B3, ("schema", None)],
    "the last of several b3": [OTHER, B3],
    "b3 with a parent": [("b3", B3[1] + b"-0020000000000001")],
    "X-B3": [*X_B3],
    "X-B3 in another order": [*reversed(X_B3)],
    "traceparent": [TRACEPARENT],
    "traceparent with a state": [TRACEPARENT, ("tracestate", b"vendor=1")],
    "b3 before X-B3 and traceparent": [
        ("traceparent", b"00-11111111111111111111111111111111-1111111111111111-01"),
        ("X-B3-TraceId", b"1111111111111111"),
        ("X-B3-SpanId", b"1111111111111111"),
        B3,
    ],
    "X-B3 before traceparent": [
        ("traceparent", b"00-11111111111111111111111111111111-1111111111111111-01"),
        *X_B3,
    ],
    "X-B3 where b3 is malformed": [*X_B3, ("b3", b"\xff")],
    "traceparent where b3 is malformed": [("b3", b""), TRACEPARENT],
    "traceparent where X-B3 is malformed": [("X-B3-TraceId", b"zz"), TRACEPARENT],
    "traceparent where b3 is null": [TRACEPARENT, ("b3", None)],
}

NOT_UNDERSTOOD: dict[str, Any] = {
    "none": [],
    "no list": None,
    "others": [("tenant", b"7")],
    "null": [("b3", None), ("traceparent", None), ("X-B3-TraceId", None)],
    "not UTF-8": [("b3", b"\xff\xfe"), ("traceparent", b"\xff"), ("X-B3-TraceId", b"\x80" * 16)],
    "empty": [("b3", b""), ("traceparent", b"")],
    "oversized": [("b3", b"1" * 1_000_000), ("traceparent", b"-" * 1_000_000)],
    "very many": [(f"header-{number}", b"x") for number in range(10_000)],
    "in other letters": [("B3", B3[1]), ("Traceparent", TRACEPARENT[1]), ("x-b3-traceid", TRACE.encode())],
    "a zero trace": [("b3", b"0" * 32 + b"-" + SPAN.encode() + b"-1")],
}


@pytest.mark.parametrize("headers", UNDERSTOOD.values(), ids=UNDERSTOOD.keys())
def test_sender_named_in_the_headers_is_the_parent(application: Any, headers: Any) -> None:
    """The record's span is in the sender's trace, under the sender's span: first b3, X-B3, traceparent."""
    for _ in application.consumer([application.record(headers=headers)]):
        pass

    (span,) = application.take()

    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
    assert span.id != SPAN


@pytest.mark.parametrize("headers", NOT_UNDERSTOOD.values(), ids=NOT_UNDERSTOOD.keys())
def test_headers_that_name_no_sender_begin_a_trace(application: Any, headers: Any) -> None:
    """Without a context that parses the record is delivered as it came and its span is a root."""
    (record,) = application.consumer([application.record(headers=headers)])

    (span,) = application.take()

    assert record.headers == headers
    assert span.parent_id is None
    assert span.trace_id != TRACE


@pytest.mark.parametrize(
    "headers",
    [
        [("b3", B3[1].decode())],
        [(b"b3", B3[1])],
        [None, (), ("b3",), ("b3", b"0", 1), "b3"],
    ],
    ids=["values of text", "names of bytes", "no pairs"],
)
def test_headers_that_a_deserializer_has_spoilt_raise_nothing(application: Any, headers: Any) -> None:
    """Headers are kafka-python's to make and a deserializer's to change: the record comes as they left it."""
    (record,) = application.consumer([application.record(headers=headers)])

    assert record.headers == headers
    assert len(application.take()) <= 1


def test_headers_that_name_no_sender_fall_back_to_the_current_span(application: Any) -> None:
    """A record read while another is in work, such as a lookup, belongs to the work that reads it."""
    lookups = application.consumer([application.record(topic="rates")])
    for _ in application.consumer([application.record(headers=[B3])]):
        next(lookups)
        lookups.close()

    inner, outer = application.take()

    assert (inner.trace_id, inner.parent_id) == (outer.trace_id, outer.id)


def test_sender_wins_over_the_current_span(application: Any) -> None:
    """A record that says who sent it stays in that trace, even if it is read while another is in work."""
    others = application.consumer([application.record(topic="rates", headers=[OTHER])])
    for _ in application.consumer([application.record(headers=[B3])]):
        next(others)
        others.close()

    inner, outer = application.take()

    assert (inner.trace_id, inner.parent_id) == ("f" * 16, "f" * 16)
    assert outer.trace_id == TRACE


def test_64_bit_trace_stays_64_bit(application: Any) -> None:
    """A trace that began with a 64-bit id keeps it, in the span and in what is sent on."""
    producer = application.producer()
    context = b"48485a3953bb6124-a2fb4a1d1a96d312-1"
    for _ in application.consumer([application.record(headers=[("b3", context)])]):
        producer.send("shipments", b"value")
        producer.last.acknowledge()

    assert [span.trace_id for span in application.take()] == ["48485a3953bb6124"] * 2
    assert producer.last.headers[0][1].startswith(b"48485a3953bb6124-")


DECISIONS: dict[str, tuple[list[tuple[str, bytes]], str]] = {
    "b3 1": ([("b3", B3[1])], "1"),
    "b3 0": ([("b3", B3[1][:-1] + b"0")], "0"),
    "b3 d": ([("b3", B3[1][:-1] + b"d")], "d"),
    "only 0": ([("b3", b"0")], "0"),
    "only 1": ([("b3", b"1")], "1"),
    "only d": ([("b3", b"d")], "d"),
    "X-B3 0": ([*X_B3[:2], ("X-B3-Sampled", b"0")], "0"),
    "X-B3 flags": ([*X_B3[:2], ("X-B3-Flags", b"1")], "d"),
    "traceparent 00": ([("traceparent", TRACEPARENT[1][:-1] + b"0")], "0"),
    "traceparent 01": ([TRACEPARENT], "1"),
}


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize(("headers", "decision"), DECISIONS.values(), ids=DECISIONS.keys())
def test_received_decision_is_kept_and_passed_on(
    configured: Any, headers: Any, decision: str, rate: float
) -> None:
    """At any rate a decision that came with a record holds for its span and for what is sent in its loop."""
    application = configured(sampling__rate=rate)
    producer = application.producer()
    for _ in application.consumer([application.record(headers=headers)]):
        producer.send("shipments", b"value")
        producer.last.acknowledge()

    spans = application.take()

    assert producer.last.headers[0][1].decode().rpartition("-")[2] == decision
    assert len(spans) == (0 if decision == "0" else 2)
    assert {span.debug for span in spans} <= {True if decision == "d" else None}


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (1.0, 1)])
def test_decision_left_open_is_made_here(configured: Any, rate: float, expected: int) -> None:
    """A trace whose sender did not decide is sampled by the rate."""
    application = configured(sampling__rate=rate)
    for _ in application.consumer([application.record(headers=[("b3", B3[1][:-2])])]):
        pass

    assert len(application.take()) == expected


def test_formats_that_are_not_asked_for_are_not_read(configured: Any) -> None:
    """Only the formats of `extract` count, in their order."""
    application = configured(propagation__extract=["tracecontext", "b3"])
    for headers in ([*X_B3], [OTHER, TRACEPARENT]):
        for _ in application.consumer([application.record(headers=headers)]):
            pass

    first, second = application.take()

    assert first.trace_id != TRACE
    assert second.trace_id == TRACE


KEYS = st.sampled_from(["b3", "X-B3-TraceId", "X-B3-SpanId", "X-B3-Sampled", "X-B3-Flags", "traceparent"])
VALUES = (
    st.none() | st.binary(max_size=60) | st.sampled_from([B3[1], TRACE.encode(), TRACEPARENT[1], b"0", b"d"])
)


@given(st.lists(st.tuples(KEYS | st.text(max_size=4), VALUES), max_size=6))
def test_no_headers_raise_or_lose_a_record(application: Any, headers: Any) -> None:
    """Whatever the headers are, the record is delivered with them, and its body has a current span."""
    for record in application.consumer([application.record(headers=headers)]):
        assert record.headers == headers
        assert current() is not None

    assert offsets(application.take()) in ([0], [])
