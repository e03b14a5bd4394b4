"""The properties of the SDK's ReadableSpan, on kaspan's spans: span processors read attributes of the parent.

Each value is made when it is read. The SDK is loaded only for values of its own classes.
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
    except ImportError as error:  # an AttributeError, so that hasattr() is False
        raise AttributeError("opentelemetry-sdk is not installed; kaspan[opentelemetry] brings it") from error


class Readable:
    """The properties of the SDK's ReadableSpan, except those of a span's end."""

    trace_id: bytes
    parent_id: bytes | None
    sampled: bool
    topic: str | None
    timestamp_ns: int
    extras: Extras | None
    consumer: Any
    title: str | None = None
    """The span's name, unless it is the span of a record's processing."""
    service = ""
    """The name of its service, if it has no consumer."""

    if TYPE_CHECKING:

        def get_span_context(self) -> SpanContext:
            """Return the span's context (RecordSpan has this method)."""

    @property
    def context(self) -> SpanContext:
        """The span's own context."""
        return self.get_span_context()

    @property
    def parent(self) -> SpanContext | None:
        """The parent's context; None if the trace begins here."""
        if self.parent_id is None:
            return None
        flags = TraceFlags(TraceFlags.SAMPLED if self.sampled else TraceFlags.DEFAULT)
        return SpanContext(int(self.trace_id, 16), int(self.parent_id, 16), self.title is None, flags)

    @property
    def name(self) -> str:
        """The span's name, as it is now."""
        if self.extras is not None and self.extras.name is not None:
            return self.extras.name
        return f"process {self.topic}" if self.title is None else self.title

    @property
    def kind(self) -> SpanKind:
        """CONSUMER for a record's processing, INTERNAL for a function."""
        return SpanKind.CONSUMER if self.title is None else SpanKind.INTERNAL

    @property
    def attributes(self) -> Mapping[str, AttributeValue]:
        """What the application has set, and the tags with the record's topic."""
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
        """None: kaspan keeps no end time."""
        return None

    @property
    def events(self) -> tuple[Event, ...]:
        """The events of the span, without their attributes."""
        if self.extras is None:
            return ()
        event: type[Event] = _sdk("trace").Event
        return tuple(event(text, timestamp=at_us * 1000) for at_us, text in self.extras.annotations)

    @property
    def links(self) -> tuple[Link, ...]:
        """Empty: Zipkin has no links between traces."""
        return ()

    @property
    def dropped_attributes(self) -> int:
        """How many attributes were dropped: a span has at most MAX_TAGS."""
        return 0 if self.extras is None else self.extras.dropped_tags

    @property
    def dropped_events(self) -> int:
        """How many events were dropped: a span has at most MAX_ANNOTATIONS."""
        return 0 if self.extras is None else self.extras.dropped_annotations

    @property
    def dropped_links(self) -> int:
        """Zero: Zipkin has no links between traces."""
        return 0

    @property
    def resource(self) -> Resource:
        """The resource, which is the service's name."""
        service = self.service if self.consumer is None else self.consumer.tracing.service
        resource: Resource = _sdk("resources").Resource({"service.name": service})
        return resource

    @property
    def instrumentation_info(self) -> None:
        """None: the old name of `instrumentation_scope`."""
        return

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        """The instrumentation that made the span: kaspan, with its version."""
        scope: InstrumentationScope = _sdk("util.instrumentation").InstrumentationScope("kaspan", VERSION)
        return scope

    def to_json(self, indent: int | None = 4) -> str:
        """Return JSON as the SDK's spans do."""
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
