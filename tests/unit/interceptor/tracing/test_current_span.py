"""The record in work is OpenTelemetry's current span: code can read it, add to it and nest spans in it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode

from support.ring_reader import Span, current, offsets

OUR_TAGS = {
    "kafka.topic",
    "kafka.key",
    "kafka.queue_time_ms",
    "messaging.system",
    "messaging.operation.name",
    "messaging.destination.name",
    "messaging.destination.partition.id",
    "messaging.kafka.offset",
    "messaging.consumer.group.name",
    "messaging.client.id",
}


def process_one(application: Any, work: Any) -> Span:
    """Work on one record and return its span; `work` gets the current span."""
    for _ in application.consumer([application.record()]):
        work(trace.get_current_span())
    (span,) = application.take()
    assert isinstance(span, Span)
    return span


ATTRIBUTES: dict[str, tuple[Any, str]] = {
    "text": ("late", "late"),
    "a number": (7, "7"),
    "a fraction": (0.5, "0.5"),
    "true": (True, "true"),
    "false": (False, "false"),
    "a list": (["a", "b"], "a,b"),
    "numbers": ((1, 2), "1,2"),
    "bytes": ("Zürich".encode(), "Zürich"),
    "bytes that are no text": (b"\xffa", "\N{REPLACEMENT CHARACTER}a"),
    "nothing": ("", ""),
    "quotes": ('say "no"', 'say "no"'),
    "a percent sign": ("100%s", "100%s"),
    "other letters": ("Zürich \N{GRINNING FACE}", "Zürich \N{GRINNING FACE}"),
    "control characters": ("a\nb\x00", "a\nb\x00"),
    "long": ("x" * 100_000, "x" * 4096),
}


@pytest.mark.parametrize(("value", "expected"), ATTRIBUTES.values(), ids=ATTRIBUTES.keys())
def test_attribute_set_in_the_body_is_a_tag(application: Any, value: Any, expected: str) -> None:
    """Zipkin's tags are text, of bounded length."""
    span = process_one(application, lambda one: one.set_attribute("order.state", value))

    assert span.tags["order.state"] == expected


@pytest.mark.parametrize("value", ["late", 7, 0.5, True, ("a", "b"), b"abc"], ids=str)
def test_attribute_is_read_as_it_was_set(application: Any, value: Any) -> None:
    """As from the SDK's spans, not as the text that it is in the tag."""
    for _ in application.consumer([application.record()]):
        span: Any = trace.get_current_span()
        span.set_attribute("order.state", value)
        assert span.attributes["order.state"] == value


def test_attributes_set_together_are_tags(application: Any) -> None:
    """set_attributes sets each."""
    span = process_one(application, lambda one: one.set_attributes({"a": 1, "b": "2"}))

    assert {key: value for key, value in span.tags.items() if key not in OUR_TAGS} == {"a": "1", "b": "2"}


def test_attributes_are_bounded_in_number(application: Any) -> None:
    """An application that sets one attribute after the other does not make a span without end."""

    def work(span: Any) -> None:
        for number in range(1000):
            span.set_attribute(f"tag-{number}", number)
            span.add_event(f"event-{number}")

    span = process_one(application, work)

    assert len(span.tags.keys() - OUR_TAGS) == 64
    assert len(span.annotations) == 64


def test_event_added_in_the_body_is_an_annotation(application: Any) -> None:
    """An event is an annotation with its time, within the span."""
    span = process_one(application, lambda one: one.add_event("packed", {"boxes": 2}))

    (annotation,) = span.annotations
    assert annotation.value == "packed"
    assert span.timestamp is not None
    assert span.duration is not None
    assert span.timestamp <= annotation.timestamp <= span.timestamp + span.duration


class CopyingProcessor(SpanProcessor):
    """A span processor as applications write them: it copies from the parent of each span."""

    def __init__(self) -> None:
        self.copied: list[Any] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        parent: Any = trace.get_current_span(parent_context)
        if parent.is_recording():
            self.copied.append((parent.name, parent.kind, parent.attributes["tenant"], parent.resource))


def test_span_offers_to_read_what_those_of_the_sdk_offer(application: Any) -> None:
    """Code that copies from the current span, as an application's span processors do, finds its values."""
    processor = CopyingProcessor()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    context_of_sender = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"
    for record in application.consumer([application.record(headers=[("b3", context_of_sender)])]):
        span: Any = trace.get_current_span()
        span.set_attributes({"tenant": 7, "tags": ["a", "b"]})
        span.add_event("packed", timestamp=5000)
        span.set_status(Status(StatusCode.ERROR, "no stock"))
        provider.get_tracer("mine").start_span("inner").end()
        before_ns, now_ns = record.timestamp * 1_000_000, time.time_ns()

        assert {name for name in dir(ReadableSpan) if not name.startswith("_")} <= set(dir(span))
        assert processor.copied == [
            ("process orders", SpanKind.CONSUMER, 7, Resource({"service.name": "shop"}))
        ]
        assert dict(span.attributes) == {
            "kafka.topic": "orders",
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.destination.name": "orders",
            "tenant": 7,
            "tags": ("a", "b"),
            "error": "no stock",
        }
        assert [(event.name, event.timestamp) for event in span.events] == [("packed", 5000)]
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no stock")
        assert f"{span.parent.span_id:016x}" == "a2fb4a1d1a96d312"
        assert (span.parent.is_remote, span.context) == (True, span.get_span_context())
        assert before_ns <= span.start_time <= now_ns
        assert (span.end_time, span.links, span.dropped_links, span.instrumentation_info) == (
            None,
            (),
            0,
            None,
        )
        assert span.instrumentation_scope.name == "kaspan"
        assert json.loads(span.to_json())["attributes"]["tags"] == ["a", "b"]


@pytest.mark.parametrize("name", ["events", "resource", "instrumentation_scope"])
def test_span_does_not_offer_what_takes_the_sdk_where_that_is_not_installed(
    application: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Who asks with a default gets it, and no ImportError."""
    for module in [module for module in sys.modules if module.startswith("opentelemetry.sdk")]:
        monkeypatch.setitem(sys.modules, module, None)
    for _ in application.consumer([application.record()]):
        span: Any = trace.get_current_span()
        span.add_event("packed")
        assert getattr(span, name, "nothing") == "nothing"
        with pytest.raises(AttributeError, match="opentelemetry-sdk is not installed"):
            getattr(span, name)


def test_span_says_how_many_additions_were_dropped(application: Any) -> None:
    """Attributes and events past the bounds are counted where the SDK counts them."""
    for _ in application.consumer([application.record()]):
        span: Any = trace.get_current_span()
        assert (span.attributes.get("tag-0"), span.events, span.status.status_code) == (
            None,
            (),
            StatusCode.UNSET,
        )
        for number in range(70):
            span.set_attribute(f"tag-{number}", number)
            span.add_event(f"event-{number}")

        assert (span.dropped_attributes, span.dropped_events) == (6, 6)


def test_event_keeps_a_time_of_its_own(application: Any) -> None:
    """An event with a timestamp, in nanoseconds, has it."""
    span = process_one(application, lambda one: one.add_event("packed", timestamp=1_700_000_000_123_456_789))

    assert span.annotations[0].timestamp == 1_700_000_000_123_456


def test_recorded_exception_is_an_error(application: Any) -> None:
    """record_exception marks the span with the message and the type."""
    span = process_one(application, lambda one: one.record_exception(LookupError("no such order")))

    assert (span.tags["error"], span.tags["error.type"]) == ("no such order", "LookupError")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ((StatusCode.ERROR, "out of stock"), "out of stock"),
        ((Status(StatusCode.ERROR, "out of stock"),), "out of stock"),
        ((StatusCode.ERROR,), "true"),
        ((StatusCode.OK,), None),
        ((Status(StatusCode.UNSET),), None),
    ],
)
def test_status_error_is_an_error(application: Any, status: tuple[Any, ...], expected: str | None) -> None:
    """Only the status ERROR marks a span, with its description where there is one."""
    span = process_one(application, lambda one: one.set_status(*status))

    assert span.tags.get("error") == expected


def test_name_given_in_the_body_is_the_spans(application: Any) -> None:
    """update_name gives the span another name."""
    assert (
        process_one(application, lambda one: one.update_name('pack "order" 100%')).name == 'pack "order" 100%'
    )


def test_end_in_the_body_does_not_end_the_span(application: Any) -> None:
    """The loop ends the span: an end() of somebody else does not report it twice."""
    span = process_one(application, lambda one: (one.end(), one.set_attribute("after", "end")))

    assert span.tags["after"] == "end"


def test_additions_after_the_end_are_ignored(application: Any) -> None:
    """A span kept beyond its loop takes nothing any more, and raises nothing."""
    kept: list[Any] = []
    process_one(application, kept.append)
    (span,) = kept
    span.set_attribute("late", "1")
    span.add_event("late")
    span.update_name("late")
    span.set_status(StatusCode.ERROR)
    span.record_exception(ValueError())
    span.end()

    assert not span.is_recording()
    assert application.take() == []


def test_context_of_the_span_is_the_records(application: Any) -> None:
    """Other instrumentations read ids and the sampled flag from the span's context."""
    kept: list[Any] = []
    span = process_one(application, lambda one: kept.append((one.get_span_context(), one.is_recording())))

    ((one, recording),) = kept
    assert one.is_valid
    assert not one.is_remote
    assert one.trace_flags.sampled
    assert recording
    assert (f"{one.trace_id:032x}", f"{one.span_id:016x}") == (span.trace_id, span.id)


@pytest.fixture
def exported() -> Iterator[Any]:
    """Give a tracer of the application's own SDK, and what it has exported."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("application"), exporter
    provider.shutdown()


def test_span_of_the_application_is_a_child_of_the_record(application: Any, exported: Any) -> None:
    """A span made in the body by OpenTelemetry's SDK has the record's span for its parent."""
    tracer, exporter = exported
    for _ in application.consumer([application.record()]):
        with tracer.start_as_current_span("pack"):
            pass

    (ours,) = application.take()
    (theirs,) = exporter.get_finished_spans()

    assert f"{theirs.context.trace_id:032x}" == ours.trace_id
    assert f"{theirs.parent.span_id:016x}" == ours.id
    assert theirs.context.trace_flags.sampled


def test_send_inside_of_the_applications_span_is_its_child(application: Any, exported: Any) -> None:
    """A send in a span of the application's, in a record's loop, continues from that span."""
    tracer, exporter = exported
    producer = application.producer()
    for _ in application.consumer([application.record()]):
        with tracer.start_as_current_span("pack"):
            producer.send("shipments", b"value")
        producer.last.acknowledge()

    sent, processed = application.take()
    (theirs,) = exporter.get_finished_spans()

    assert sent.trace_id == processed.trace_id
    assert sent.parent_id == f"{theirs.context.span_id:016x}"


def test_send_inside_of_an_unsampled_span_keeps_its_decision(application: Any) -> None:
    """A span of the application's that is not sampled makes what is sent in it unsampled."""
    producer = application.producer()
    parent = trace.NonRecordingSpan(
        trace.SpanContext(0x463AC35C9F6413AD48485A3953BB6124, 0xA2FB4A1D1A96D312, is_remote=False)
    )
    with trace.use_span(parent):
        producer.send("orders", b"value")
    producer.last.acknowledge()

    assert producer.last.headers[0][1].startswith(b"463ac35c9f6413ad48485a3953bb6124-")
    assert producer.last.headers[0][1].endswith(b"-0")
    assert application.take() == []


def test_invalid_current_span_is_no_parent(application: Any) -> None:
    """OpenTelemetry's invalid span means that there is none: a send in it begins a trace."""
    producer = application.producer()
    with trace.use_span(trace.INVALID_SPAN):
        producer.send("orders", b"value")
    producer.last.acknowledge()

    assert application.take()[0].parent_id is None


def test_span_open_around_a_loop_is_current_after_it(application: Any, exported: Any) -> None:
    """A loop inside of a span of the application's leaves that span as it was."""
    tracer, _ = exported
    with tracer.start_as_current_span("batch") as batch:
        for _ in application.consumer(application.records(2)):
            assert trace.get_current_span() is not batch
        assert trace.get_current_span() is batch


def test_records_without_a_sender_belong_to_the_span_around_the_loop(application: Any, exported: Any) -> None:
    """Where the headers do not say who sent a record, the span around the loop is its parent."""
    tracer, _ = exported
    with tracer.start_as_current_span("batch") as batch:
        for _ in application.consumer(application.records(2)):
            pass

    spans = application.take()

    assert {span.parent_id for span in spans} == {f"{batch.get_span_context().span_id:016x}"}


def test_context_attached_and_detached_in_the_body_changes_nothing(application: Any) -> None:
    """An application that uses OpenTelemetry's context as it should sees the record again afterwards."""
    for _ in application.consumer(application.records(3)):
        record_span = current()
        token = context.attach(baggage.set_baggage("tenant", "7"))
        assert (current(), baggage.get_baggage("tenant")) == (record_span, "7")
        context.detach(token)
        assert (current(), baggage.get_baggage("tenant")) == (record_span, None)

    assert offsets(application.take()) == [0, 1, 2]


def test_context_attached_and_never_detached_stays_without_the_record(application: Any) -> None:
    """What an application leaves in its context stays there, but no record that is done."""
    for _ in application.consumer(application.records(3)):
        context.attach(baggage.set_baggage("tenant", "7"))

    assert baggage.get_baggage("tenant") == "7"
    assert current() is None
    assert len({span.trace_id for span in application.take()}) == 3


def test_context_emptied_in_the_body_is_left_empty(application: Any) -> None:
    """An application that attaches an empty context sees no span of kaspan's in it, then or later."""
    for _ in application.consumer(application.records(2)):
        context.attach(context.Context())
        assert current() is None

    assert current() is None
    assert offsets(application.take()) == [0, 1]


def test_span_of_the_application_left_open_over_the_loop_stays(application: Any, exported: Any) -> None:
    """A span that the application opens in the body and closes later is not taken from it."""
    tracer, _ = exported
    opened = None
    for _ in application.consumer([application.record()]):
        opened = tracer.start_span("outlives")
        context.attach(trace.set_span_in_context(opened))

    assert trace.get_current_span() is opened
    context.attach(context.Context())
    opened.end()


def test_context_of_the_application_is_kept_in_the_body(application: Any) -> None:
    """What is in the context around the loop is there in the body too."""
    token = context.attach(baggage.set_baggage("tenant", "7"))
    for _ in application.consumer(application.records(2)):
        assert baggage.get_baggage("tenant") == "7"
    context.detach(token)

    assert len(application.take()) == 2


def test_loop_over_a_list_in_a_loop_over_itself_has_each_record_current(
    application: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that is reached in its own scope is current in both, and the outer one is again after it."""
    (records,) = application.consumer(application.records(3)).poll().values()
    for _ in records:
        outer = current()
        inner = [current() for _ in records]
        assert len({*inner}) == 3
        assert outer in inner
        assert current() == outer

    assert current() is None
    assert sorted(offsets(application.take())) == [0, 1, 2]
    assert caplog.records == []
