"""The span that is current while the application works on a record.

It is a span of OpenTelemetry's API. It has no dictionaries until the application adds tags.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.tracing import span_ids
from kaspan.interceptor.tracing.extras import Extras
from kaspan.interceptor.tracing.readable_span import Readable
from kaspan.wire import tracecontext
from kaspan.wire.context import TraceContext

MAX_TAG_CHARACTERS = 4096
MAX_TAGS = 64
MAX_ANNOTATIONS = 64


if TYPE_CHECKING:
    from kaspan.interceptor.tracing.span_ids import ForwardedContext, SpanIds
else:
    ForwardedContext, SpanIds = accelerated(span_ids.ForwardedContext), accelerated(span_ids.SpanIds)


def has_expired(span: span_ids.ScopedSpan) -> bool:
    """Whether a span with an `expiry` has ended. Ends it if its time is over."""
    scope = None if span.expiry is None else span.expiry()
    if scope is not None:
        scope.expire(span)
    return scope is None or span.is_left  # None: it was freed with its consumer


class ForwardedSpan(ForwardedContext, NonRecordingSpan):
    """The sender's span, current while the application works on a record of an excluded topic.

    Nothing is recorded, but records that the application sends meanwhile belong to the sender's trace. The
    headers are read only when the context is needed: most applications exclude topics to save that.
    """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.get_span_context()!r})"

    def get_span_context(self) -> SpanContext:
        """Return the context of the sender's span, or an invalid one."""
        if self.expiry is not None and has_expired(self):
            return INVALID_SPAN_CONTEXT
        trace_id, span_id, sampled, _ = self._extract(self._headers) or (None, None, None, False)
        if trace_id is None or span_id is None:
            return INVALID_SPAN_CONTEXT
        flags = TraceFlags(TraceFlags.DEFAULT if sampled is False else TraceFlags.SAMPLED)
        state = _trace_state(tracecontext.state_of(self._headers, trace_id))
        return SpanContext(int(trace_id, 16), int(span_id, 16), True, flags, state)


class RecordSpan(SpanIds, Readable, Span):
    """The span of one record's processing; `debug` implies `sampled`.

    What the application adds to it (tags, annotations, a name) is kept until the span ends, in bounded
    number and size; additions after that are ignored, as OpenTelemetry does.
    """

    @classmethod
    def of(cls, found: TraceContext) -> RecordSpan:
        """Make a span with the ids of a context, to inject it."""
        trace_id, span_id, sampled, debug = found
        span = cls(trace_id or b"", span_id or b"", None, sampled is not False)
        if debug:
            span.extras = Extras(debug=True)
        return span

    @property
    def debug(self) -> bool:
        """Whether the trace is recorded whatever the sampling rate."""
        return self.extras is not None and self.extras.debug

    @property
    def trace_state(self) -> bytes:
        """The value of the W3C `tracestate` for records sent in this span; empty without one."""
        if self._state is None:
            self._state = tracecontext.state_of(self.headers, self.trace_id) if self.headers else b""
        return self._state

    def carry_state(self, other: Span | None) -> None:
        """Copy the trace state of another span of the trace, kaspan's or OpenTelemetry's."""
        if isinstance(other, RecordSpan):
            if other.headers is not None or other._state is not None:
                self.headers, self._state = other.headers, other._state
        elif other is not None and (state := other.get_span_context().trace_state):
            self._state = state.to_header().encode()

    def get_span_context(self) -> SpanContext:
        """Return the span's context; an invalid one once its time is over."""
        if self.expiry is not None and has_expired(self):
            return INVALID_SPAN_CONTEXT
        flags = TraceFlags(TraceFlags.SAMPLED if self.sampled else TraceFlags.DEFAULT)
        state = _trace_state(self.trace_state)
        return SpanContext(int(self.trace_id, 16), int(self.span_id, 16), False, flags, state)

    def _add(self) -> Extras:
        if self.extras is None:
            self.extras = Extras()
        return self.extras

    def is_recording(self) -> bool:
        """Whether tags, events and a name are accepted."""
        return self.sampled and not (self.expiry is not None and has_expired(self)) and not self.ended

    def set_attribute(self, key: str, value: AttributeValue) -> None:
        """Add a tag. Values become text, as Zipkin has only that."""
        if self.is_recording():
            extras, key = self._add(), str(key)[:MAX_TAG_CHARACTERS]
            if key in extras.tags or len(extras.tags) < MAX_TAGS:
                extras.tags[key] = _text(value)
                extras.values[key] = _bounded(value)
            else:
                extras.dropped_tags += 1

    def set_attributes(self, attributes: Mapping[str, AttributeValue]) -> None:
        """Add several tags."""
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        """Add an annotation; `timestamp` in ns. Drops `attributes`: Zipkin's annotations have none."""
        del attributes
        if self.is_recording():
            extras = self._add()
            if len(extras.annotations) < MAX_ANNOTATIONS:
                at_us = (time.time_ns() if timestamp is None else timestamp) // 1000
                extras.annotations.append((at_us, str(name)[:MAX_TAG_CHARACTERS]))
            else:
                extras.dropped_annotations += 1

    def update_name(self, name: str) -> None:
        """Change the span's name."""
        if self.is_recording():
            self._add().name = str(name)[:MAX_TAG_CHARACTERS]

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Mark the span as failed, by Zipkin's tag `error`, if the status is ERROR."""
        code = status.status_code if isinstance(status, Status) else status
        if code is StatusCode.ERROR:
            said = status.description if isinstance(status, Status) else description
            self.set_attribute("error", said or "true")

    def record_exception(
        self,
        exception: BaseException,
        attributes: Any = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Mark the span as failed with the exception's message and type."""
        del attributes, timestamp, escaped
        self.set_attribute("error", str(exception) or type(exception).__name__)
        self.set_attribute("error.type", type(exception).__qualname__)

    def fail(self, error: BaseException | None) -> None:
        """Mark the span as failed by an exception, None if it is not known. The first mark stays."""
        if self.is_recording():
            tags = self._add().tags
            if error is None:
                tags.setdefault("error", "true")
            elif "error" not in tags:
                tags["error"] = name = type(error).__name__
                tags.setdefault("error.type", name)
                tags["error"] = (str(error) or name)[:MAX_TAG_CHARACTERS]  # last, since it may raise

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: the span ends when the application asks for the next record."""


def _trace_state(value: bytes) -> TraceState | None:
    return TraceState.from_header([value.decode()]) if value else None


def _bounded(value: AttributeValue | Sequence[Any]) -> Any:
    if isinstance(value, str | bytes):
        return value[:MAX_TAG_CHARACTERS]
    return tuple(value[:MAX_TAGS]) if isinstance(value, Sequence) else value


def _text(value: AttributeValue | Sequence[Any]) -> str:
    if isinstance(value, bytes):
        value = value[: 4 * MAX_TAG_CHARACTERS].decode(errors="replace")
    if isinstance(value, str):
        return value[:MAX_TAG_CHARACTERS]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence):
        return ",".join(str(one) for one in value[:MAX_TAGS])[:MAX_TAG_CHARACTERS]
    return str(value)[:MAX_TAG_CHARACTERS]
