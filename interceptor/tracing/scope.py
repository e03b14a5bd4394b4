"""The current span, in OpenTelemetry's own place: its instrumentations nest in ours, and ours in theirs.

OpenTelemetry keeps its context, a dict, in one ContextVar. Its attach and detach cost five times a direct
set; they are used when another runtime context is configured (OTEL_PYTHON_CONTEXT).
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextvars import Context as _Context
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.trace.propagation import _SPAN_KEY

from kaspan.interceptor.tracing.collection import keep_context
from kaspan.interceptor.tracing.span import ForwardedSpan, RecordSpan, has_expired

SPAN_KEY = _SPAN_KEY
"""Where every instrumentation looks for the current span."""

_MAX_NESTED = 32
"""So many spans of ours around another are kept."""


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
        context = self.get()
        span: Span | None = context.get(SPAN_KEY)
        if isinstance(span, RecordSpan | ForwardedSpan) and is_over(span):
            span = without_left_spans(context).get(SPAN_KEY)
        return span

    def enter(self, span: RecordSpan | ForwardedSpan, keeps_token: bool = False) -> tuple[Any, Any]:
        """Make `span` current; returns the contexts before and now, which `leave` needs.

        The token with which `leave` finds back to where it was entered is `span.token`, if it is wanted: it
        holds the context, and with it what a thread or task has there, so it is not to be kept for long.
        """
        before = self.get()
        if before:
            before = without_left_spans(before)
            if not _holds(before, span):  # as where a list is looped over in a loop over itself
                span.outer_context = _lasting(before, span)
            during = {**before, SPAN_KEY: span}
        else:
            # A plain dict does what everybody does with a Context, at a third of the cost of making one.
            during = {SPAN_KEY: span}
        span.is_left = False
        token = self.set(during)
        if keeps_token:
            span.token = token
        return before, during

    def leave(self, before: Any, during: Any, span: RecordSpan | ForwardedSpan, token: Any = None) -> None:
        """Make current what was before `span`, unless the caller is not in `span`'s scope any more.

        A finalizer may run in any thread or task, and the application may have attached a context of its own
        inside: that one stays, only without our span in it.
        """
        if keep_context():
            span.is_left = True  # who is setting a variable at this moment does not see that we set ours
        now = self.get()
        if now is during and self._is_at_home(token):
            if before or token is None or self.variable is None:
                self.set(without_left_spans(before) if before else before)
            return
        # Where a task was started in its scope the span stays current: the task goes on with a copy of the
        # context. Where it was entered it is made to end; if that cannot be, it counts nowhere any more.
        if not self._leave_home(before, during, token):
            span.is_left = True
        if now.get(SPAN_KEY) is span:
            self.set(without_left_spans(before) if now is during else _without(now, before))

    def _is_at_home(self, token: Any) -> bool:
        """Whether the caller is where the token is from, and not in a copy of that context."""
        if token is None or self.variable is None:
            return True
        try:
            self.variable.reset(token)
        except (ValueError, RuntimeError):
            return False
        return True

    def _leave_home(self, before: Any, during: Any, token: Any) -> bool:
        """Let a context that is not the caller's go back to what was before, if it is there still."""
        # An asynchronous generator that is given up is closed by a task of the event loop's, with a copy of
        # the context. Which one a token is from is seen by the garbage collector only.
        variable = self.variable
        homes = [] if variable is None else [one for one in gc.get_referents(token) if type(one) is _Context]
        if variable is None or not homes or homes[0].get(variable) is not during:
            return False
        try:
            homes[0].run(variable.set, without_left_spans(before))
        except RuntimeError:  # it is the caller's caller's
            return False
        return True


def is_over(span: RecordSpan | ForwardedSpan) -> bool:
    """Whether a span of ours that is found current counts no more: it was left, or its time is over."""
    return span.is_left or (span.expiry is not None and has_expired(span))


def without_left_spans(context: Any) -> Any:
    """The context without a span of ours that was left from elsewhere, as when two loops are interleaved.

    What else the application keeps in the context stays. On the way, no span is left holding another one
    that was left, or more than a bounded number of others.
    """
    chain: list[tuple[Any, Any]] = []
    while isinstance(span := context.get(SPAN_KEY), RecordSpan | ForwardedSpan):
        if len(chain) == _MAX_NESTED:
            context = {}
            break
        chain.append((context, span))
        context = span.outer_context or {}
    for within, span in reversed(chain):
        if span.outer_context:
            span.outer_context = context
        context = _without(within, span.outer_context or {}) if is_over(span) else within
    return context


def _without(context: Any, outer: Any) -> Any:
    """What else is in a context than its span, with that of `outer`."""
    if len(context) == 1:
        return outer
    without = {key: value for key, value in context.items() if key != SPAN_KEY}
    if SPAN_KEY in outer:
        without[SPAN_KEY] = outer[SPAN_KEY]
    return without


def _holds(context: Any, span: object) -> bool:
    """Whether a span is current in a context, or would be if others were left."""
    for _ in range(_MAX_NESTED):
        inner = context.get(SPAN_KEY)
        if inner is span:
            return True
        if not isinstance(inner, RecordSpan | ForwardedSpan):
            return False
        context = inner.outer_context or {}
    return False


def _lasting(context: Any, span: RecordSpan | ForwardedSpan) -> Any:
    """The context around a span, without those of earlier records of its consumer.

    A task that is started in a loop's body, and reads on, is in the scope of the record before.
    """
    while (
        isinstance(inner := context.get(SPAN_KEY), RecordSpan)
        and inner.ended
        and isinstance(span, RecordSpan)
        and inner.consumer is span.consumer is not None
    ):
        context = inner.outer_context or {}
    return context
