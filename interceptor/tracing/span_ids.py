"""The attributes of a span that compiled code sets too: its ids, and what its scope keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaspan.interceptor.tracing.extras import Extras
from kaspan.wire.context import Headers, TraceContext


class ScopedSpan:
    """What a span keeps while it is current."""

    # Defaults on the class: most spans never set these.
    is_left = False
    outer_context: Any = None
    """The context in which the span was made current, if that was not empty."""
    token: Any = None
    """The token of the context variable, from when the span was last made current."""
    expiry: Callable[[], Any] | None = None
    """Where its time is bounded, a weak reference to the NextScope that ends it."""


class ForwardedContext(ScopedSpan):
    """The headers of a record whose context is forwarded, and the function that reads them."""

    def __init__(self, extract: Callable[[Headers], TraceContext | None], headers: Headers) -> None:
        self._extract = extract
        self._headers = headers


class SpanIds(ScopedSpan):
    """The ids of a span, as hex digits, and what tracing keeps with them."""

    # Defaults, as in ScopedSpan.
    ended = False
    consumer: Any = None
    """The ConsumerSpans of the record: a record is never the parent of another of the same consumer."""
    extras: Extras | None = None
    record: Any = None
    """On a function's span: the span of the record that it works on."""
    headers: Headers | None = None
    """The record's headers, if they may hold a tracestate."""
    topic: str | None = None
    """On the span of a record's processing: its topic."""
    timestamp_ns = 0
    """The start of the span, in nanoseconds since the epoch."""
    _state: bytes | None = None

    def __init__(self, trace_id: bytes, span_id: bytes, parent_id: bytes | None, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.sampled = sampled
