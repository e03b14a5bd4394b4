"""The current span, in OpenTelemetry's own place: its instrumentations nest in ours, and ours in theirs.

OpenTelemetry keeps its context, a dict, in one ContextVar. Its attach and detach cost five times a direct
set; they are used when another runtime context is configured (OTEL_PYTHON_CONTEXT).
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation import _SPAN_KEY

from kaspan.interceptor.span import PassedSpan, RecordSpan

SPAN_KEY = _SPAN_KEY
"""Where every instrumentation looks for the current span."""


def _context_variable() -> ContextVar[Context] | None:
    runtime: Any = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    return variable if isinstance(variable, ContextVar) else None


class Scope:
    """Makes spans current and takes them away again, in the calling thread or task."""

    def __init__(self) -> None:
        variable = self.variable = _context_variable()
        """None if another runtime context keeps it."""
        self.get: Callable[[], Any] = otel_context.get_current if variable is None else variable.get
        """The current context, a dict."""
        self.set: Callable[[Any], Any] = otel_context.attach if variable is None else variable.set

    def current_span(self) -> Span | None:
        """The span in scope, whoever made it; None outside of any."""
        span: Span | None = self.get().get(SPAN_KEY)
        return span

    def enter(self, span: RecordSpan | PassedSpan) -> tuple[Any, Any]:
        """Make `span` current; returns the contexts before and now, which `leave` needs."""
        before = self.get()
        if before:
            before = span.outer = live(before)
            during = {**before, SPAN_KEY: span}
        else:
            # A plain dict does what everybody does with a Context, at a third of the cost of making one.
            during = {SPAN_KEY: span}
        span.left = False
        self.set(during)
        return before, during

    def leave(self, before: Any, during: Any, span: RecordSpan | PassedSpan) -> None:
        """Make current what was before `span`, unless the caller is not in `span`'s scope any more.

        A finalizer may run in any thread, and the application may have attached a context of its own inside:
        that one stays, only without our span in it.
        """
        now = self.get()
        if now is during:
            self.set(live(before) if before else before)
            return
        # Wherever it still is current, it is by oversight. Where a task was started in its scope it is not:
        # the task goes on with a copy of the context, and `now is during` when the span is left.
        span.left = True
        if now.get(SPAN_KEY) is span:
            self.set(live(now))


def live(context: Any) -> Any:
    """The context without a span of ours that was left from elsewhere, as when two loops are interleaved.

    What else the application keeps in the context stays. On the way, no span is left holding another one
    that was left.
    """
    span = context.get(SPAN_KEY)
    if not isinstance(span, RecordSpan | PassedSpan):
        return context
    outer = span.outer or {}
    if outer:
        outer = span.outer = live(outer)
    if not span.left:
        return context
    if len(context) == 1:
        return outer
    without = {key: value for key, value in context.items() if key != SPAN_KEY}
    if SPAN_KEY in outer:
        without[SPAN_KEY] = outer[SPAN_KEY]
    return without
