"""What OpenTelemetry's SDK offers to read of a span: span processors copy attributes of the parent, and more.

It is put together when somebody asks. The SDK is loaded only for what nobody has who has not loaded it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from kaspan.wire import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import Event
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from kaspan.interceptor.tracing.extras import Extras


def _sdk(module: str) -> Any:
    try:
        return import_module(f"opentelemetry.sdk.{module}")
    except ImportError as error:  # for hasattr() and getattr(span, name, None), a span that does not offer it
        raise AttributeError("opentelemetry-sdk is not installed; kaspan[opentelemetry] brings it") from error


class Readable:
    """The properties of the SDK's ReadableSpan, of a span of ours. Of its end there is nothing to read."""

    trace_id: bytes
    parent_id: bytes | None
    sampled: bool
    topic: str | None
    timestamp_ns: int
    extras: Extras | None
    consumer: Any
    title: str | None = None
    """What the span is called, if it is not that of a record's processing."""
    service = ""
    """Whose it is, where there is no consumer to ask."""

    if TYPE_CHECKING:

        def get_span_context(self) -> SpanContext:
            """RecordSpan's own."""

    @property
    def context(self) -> SpanContext:
        """The span's own context."""
        return self.get_span_context()

    @property
    def parent(self) -> SpanContext | None:
        """The parent's context; None where the trace begins."""
        if self.parent_id is None:
            return None
        flags = TraceFlags(TraceFlags.SAMPLED if self.sampled else TraceFlags.DEFAULT)
        return SpanContext(int(self.trace_id, 16), int(self.parent_id, 16), self.title is None, flags)

    @property
    def name(self) -> str:
        """The name that the span will have, if nobody changes it."""
        if self.extras is not None and self.extras.name is not None:
            return self.extras.name
        return f"process {self.topic}" if self.title is None else self.title

    @property
    def kind(self) -> SpanKind:
        """CONSUMER for a record's processing, INTERNAL for a function."""
        return SpanKind.CONSUMER if self.title is None else SpanKind.INTERNAL

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """What the application has set, and what says of which topic the record is."""
        found: dict[str, AttributeValue] = {}
        if self.topic is not None:
            found = {
                "kafka.topic": self.topic,
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.destination.name": self.topic,
            }
        if self.extras is not None:
            found |= self.extras.tags
            found |= self.extras.values
        return MappingProxyType(found)

    @property
    def status(self) -> Status:
        """ERROR once the span is marked as failed."""
        error = None if self.extras is None else self.extras.tags.get("error")
        return Status(StatusCode.UNSET) if error is None else Status(StatusCode.ERROR, error)

    @property
    def start_time(self) -> int | None:
        """When it began, in nanoseconds since the epoch."""
        return self.timestamp_ns or None

    @property
    def end_time(self) -> int | None:
        """None: a span that can be looked at is open, or has been reported."""
        return None

    @property
    def events(self) -> tuple[Event, ...]:
        """The events that were added, without their attributes."""
        if self.extras is None:
            return ()
        event: type[Event] = _sdk("trace").Event
        return tuple(event(text, timestamp=at_us * 1000) for at_us, text in self.extras.annotations)

    @property
    def links(self) -> tuple[Link, ...]:
        """None: Zipkin knows no links."""
        return ()

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were one too many."""
        return 0 if self.extras is None else self.extras.dropped_tags

    @property
    def dropped_events(self) -> int:
        """How many events were one too many."""
        return 0 if self.extras is None else self.extras.dropped_annotations

    @property
    def dropped_links(self) -> int:
        """None."""
        return 0

    @property
    def resource(self) -> Resource:
        """The service."""
        service = self.service if self.consumer is None else self.consumer.tracing.service
        resource: Resource = _sdk("resources").Resource({"service.name": service})
        return resource

    @property
    def instrumentation_info(self) -> None:
        """None: what was in its place before `instrumentation_scope`."""
        return

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """Who made the span: kaspan, and its version."""
        scope: InstrumentationScope = _sdk("util.instrumentation").InstrumentationScope("kaspan", VERSION)
        return scope

    def to_json(self, indent: int | None = 4) -> str:
        """Write it as the SDK writes its own."""
        written: str = (
            _sdk("trace")
            .ReadableSpan(
                self.name,
                self.context,
                self.parent,
                self.resource,
                self.attributes,
                self.events,
                kind=self.kind,
                status=self.status,
                start_time=self.start_time,
                instrumentation_scope=self.instrumentation_scope,
            )
            .to_json(indent)
        )
        return written
