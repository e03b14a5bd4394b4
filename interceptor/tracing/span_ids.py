"""What a record's span keeps: its identifiers, and what the scope notes on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kaspan.interceptor.tracing.extras import Extras
from kaspan.wire.context import Headers, TraceContext


class ScopedSpan:
    """What a span of ours that is made current keeps."""

    # On the class, since nearly all spans leave them as they are.
    is_left = False
    outer_context: Any = None
    """The context in which it was made current, if that was not empty."""
    token: Any = None
    """The context variable's, of when it was made current last."""
    expiry: Callable[[], Any] | None = None
    """Where its time is bounded, a weak reference to the NextScope that ends it."""


class ForwardedContext(ScopedSpan):
    """The headers of a record that is passed on, and how they are read."""

    def __init__(self, extract: Callable[[Headers], TraceContext | None], headers: Headers) -> None:
        self._extract = extract
        self._headers = headers


class SpanIds(ScopedSpan):
    """The identifiers of a record's span, in hex digits, and what tracing keeps with them."""

    # As in ScopedSpan.
    ended = False
    consumer: Any = None
    """Whose record it is the span of: one record is never the parent of another of the same consumer."""
    extras: Extras | None = None
    record: Any = None
    """The record's span, on that of a function which works on the record."""
    headers: Headers | None = None
    """The record's headers, if there may be a tracestate in them."""
    topic: str | None = None
    """The record's, on the span of its processing."""
    timestamp_ns = 0
    """When it began, since the epoch."""
    _state: bytes | None = None

    def __init__(self, trace_id: bytes, span_id: bytes, parent_id: bytes | None, sampled: bool) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.sampled = sampled
