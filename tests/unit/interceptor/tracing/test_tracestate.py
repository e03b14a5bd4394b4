"""What other vendors say of a trace in `tracestate`, and the application in `baggage`, survives the hop."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from kaspan.interceptor import traced
from kaspan.interceptor.functions.decorators import follow_calls
from kaspan.interceptor.functions.spans import FunctionSpans

TRACE = "463ac35c9f6413ad48485a3953bb6124"
OTHER = "abcdef0123456789abcdef0123456789"
SPAN = "a2fb4a1d1a96d312"
STATE = ("tracestate", b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE")
PARENT = ("traceparent", f"00-{TRACE}-{SPAN}-01".encode())
B3 = ("b3", f"{TRACE}-{SPAN}-1".encode())


@pytest.fixture(params=["[tracecontext]", "[b3, tracecontext]", "[tracecontext, b3multi]"])
def application(configured: Any, request: pytest.FixtureRequest) -> Any:
    """Give an application that writes traceparent."""
    return configured(propagation__inject=request.param)


def sent(producer: Any, name: str = "tracestate") -> list[bytes]:
    """Return what the last record has in the headers of that name."""
    return [value for key, value in producer.last.headers if key == name]


def in_loop(application: Any, headers: Any, own: Any = None, **record: Any) -> Any:
    """Send while a record with these headers is worked on; return the producer."""
    producer = application.producer()
    for _ in application.consumer([application.record(headers=headers, **record)]):
        producer.send("shipments", b"value", headers=own)
        producer.last.acknowledge()
    return producer


RECEIVED: dict[str, list[tuple[str, bytes]]] = {
    "traceparent": [PARENT, STATE],
    "the other way round": [STATE, ("tenant", b"7"), PARENT],
    "b3 first": [B3, PARENT, STATE],
    "b3 last": [PARENT, STATE, B3],
}


@pytest.mark.parametrize("headers", RECEIVED.values(), ids=RECEIVED.keys())
def test_tracestate_of_a_record_goes_on_with_what_is_sent(application: Any, headers: Any) -> None:
    """A send in the loop carries the tracestate that came with its trace, and its own traceparent."""
    producer = in_loop(application, headers)

    (parent,) = sent(producer, "traceparent")
    assert parent.startswith(f"00-{TRACE}-".encode())
    assert SPAN.encode() not in parent
    assert sent(producer) == [STATE[1]]


def test_tracestate_of_an_unsampled_trace_goes_on(application: Any) -> None:
    """A trace that is not recorded passes its tracestate on all the same."""
    producer = in_loop(application, [(PARENT[0], PARENT[1][:-1] + b"0"), STATE])

    assert sent(producer, "traceparent")[0].endswith(b"-00")
    assert sent(producer) == [STATE[1]]


def test_tracestate_of_a_record_of_an_excluded_topic_goes_on(configured: Any) -> None:
    """A record of which nothing is recorded passes its tracestate on too."""
    application = configured(propagation__inject="[tracecontext]", exclude_topics="[secret]")
    producer = in_loop(application, [PARENT, STATE], topic="secret")

    assert sent(producer) == [STATE[1]]


OTHERS: dict[str, list[tuple[str, bytes]]] = {
    "no traceparent": [B3, STATE],
    "of another trace": [("traceparent", f"00-{OTHER}-{SPAN}-01".encode()), STATE, B3],
    "malformed": [PARENT, ("tracestate", b"Rojo=1")],
}


@pytest.mark.parametrize("headers", OTHERS.values(), ids=OTHERS.keys())
def test_tracestate_that_is_not_the_traces_is_given_up(application: Any, headers: Any) -> None:
    """A tracestate that does not belong to the trace, or cannot be read, goes nowhere."""
    assert sent(in_loop(application, headers)) == []


def test_tracestate_given_to_send_is_replaced_by_the_scopes(application: Any) -> None:
    """In a record's loop the record's trace counts, and headers of another trace are replaced."""
    stale = [("traceparent", f"00-{OTHER}-{SPAN}-01".encode()), ("tracestate", b"stale=1"), ("tenant", b"7")]

    assert sent(in_loop(application, [PARENT, STATE], own=stale)) == [STATE[1]]
    assert sent(in_loop(application, [B3], own=stale)) == []


def test_tracestate_given_to_send_outside_of_a_scope_is_kept(application: Any) -> None:
    """Where the headers given to send() say whose trace it is, their tracestate is the trace's."""
    producer = application.producer()
    producer.send("orders", b"value", headers=[PARENT, STATE])
    assert sent(producer) == [STATE[1]]
    producer.send("orders", b"value", headers=[STATE])
    assert sent(producer) == []


def test_tracestate_of_a_span_of_opentelemetrys_goes_on(application: Any) -> None:
    """A send within a span of another tracer carries that span's tracestate, in our functions too."""
    producer = application.producer()
    state = TraceState([("rojo", "1"), ("congo", "2")])
    context = SpanContext(int(TRACE, 16), int(SPAN, 16), False, TraceFlags(1), state)

    @traced("handle")
    def handle() -> None:
        producer.send("orders", b"value")

    follow_calls(FunctionSpans(application.tracing))
    with trace.use_span(NonRecordingSpan(context)):
        producer.send("orders", b"value")
        assert sent(producer) == [b"rojo=1,congo=2"]
        handle()
    follow_calls(None)

    assert sent(producer) == [b"rojo=1,congo=2"]


def test_tracestate_is_in_the_context_of_the_records_span(application: Any) -> None:
    """Instrumentations that write headers find the record's tracestate where OpenTelemetry has it."""
    for record in application.consumer([application.record(headers=[PARENT, STATE])]):
        seen = trace.get_current_span().get_span_context().trace_state
        assert seen.to_header() == STATE[1].decode()
        assert record.headers == [PARENT, STATE]


def test_tracestate_goes_through_a_function_in_another_thread(application: Any) -> None:
    """A function that is given the record afterwards goes on with its tracestate."""
    producer = application.producer()

    @traced("handle")
    def handle(record: Any) -> None:
        producer.send("orders", b"value")

    follow_calls(FunctionSpans(application.tracing))
    (record,) = application.consumer([application.record(headers=[PARENT, STATE])])
    handle(record)
    follow_calls(None)

    assert sent(producer) == [STATE[1]]


def test_tracestate_is_removed_where_traceparent_is_read_and_not_written(configured: Any) -> None:
    """A tracestate without its traceparent would mean nothing."""
    producer = configured().producer()
    producer.send("orders", b"value", headers=[PARENT, STATE, ("tenant", b"7")])

    assert [key for key, _ in producer.last.headers] == ["tenant", "b3"]


def test_headers_of_a_format_that_is_not_ours_are_the_applications(configured: Any) -> None:
    """Where tracecontext is neither read nor written its headers pass as any others do."""
    producer = configured(propagation__extract="[b3]").producer()
    producer.send("orders", b"value", headers=[PARENT, STATE])

    assert producer.last.headers[:2] == [PARENT, STATE]


@pytest.mark.parametrize("value", [b"tenant=7", b"", b"\xff\xfe"])
def test_baggage_is_never_touched(application: Any, value: bytes) -> None:
    """A baggage header is the application's: sent as it was given, whatever is in it, and not made up."""
    producer = in_loop(application, [PARENT, STATE, ("baggage", b"user=1")], own=[("baggage", value)])
    assert [value for key, value in producer.last.headers if key == "baggage"] == [value]

    assert sent(in_loop(application, [PARENT, ("baggage", b"user=1")]), "baggage") == []
