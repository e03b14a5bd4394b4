"""The current span, kept in OpenTelemetry's context: its spans are children of kaspan's, and the reverse.

OpenTelemetry keeps its context, a dict, in one ContextVar. To set that directly takes a fifth of the time of
attach() and detach(). These are used if another runtime context is configured (OTEL_PYTHON_CONTEXT).
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

from kaspan.interceptor.tracing.collection import keep_context_if_collecting
from kaspan.interceptor.tracing.span import ForwardedSpan, RecordSpan, has_expired

SPAN_KEY = _SPAN_KEY
"""The key of the current span in a context of OpenTelemetry's."""

_MAX_NESTED = 32
"""How many of kaspan's spans around another one are kept."""


def _context_variable() -> ContextVar[Context] | None:
    runtime: Any = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    return variable if isinstance(variable, ContextVar) else None


class Scope:
    """Makes spans current in the calling thread or task, and restores what was current before."""

    def __init__(self) -> None:
        variable = self.variable = _context_variable()
        """None if another runtime context is configured."""
        self.get: Callable[[], Any] = otel_context.get_current if variable is None else variable.get
        """Returns the current context, a dict."""
        self.set: Callable[[Any], Any] = otel_context.attach if variable is None else variable.set

    def current_span(self) -> Span | None:
        """Return the current span, kaspan's or OpenTelemetry's; None without one."""
        context = self.get()
        span: Span | None = context.get(SPAN_KEY)
        if isinstance(span, RecordSpan | ForwardedSpan) and is_over(span):
            span = without_left_or_expired(context).get(SPAN_KEY)
        return span

    def enter(self, span: RecordSpan | ForwardedSpan, keeps_token: bool = False) -> tuple[Any, Any]:
        """Make `span` current. Returns the contexts before and during that, for `leave`.

        With `keeps_token`, `span.token` is the token by which `leave` finds this thread or task again. It
        refers to the context with all its variables, so the caller must not keep it for long.
        """
        before = self.get()
        if before:
            before = without_left_or_expired(before)
            if not _holds(before, span):  # it does in a loop over a list inside a loop over the same list
                span.outer_context = _without_earlier_records(before, span)
            during = {**before, SPAN_KEY: span}
        else:
            # A plain dict is read like a Context, and takes a third of the time to make.
            during = {SPAN_KEY: span}
        span.is_left = False
        token = self.set(during)
        if keeps_token:
            span.token = token
        return before, during

    def leave(self, before: Any, during: Any, span: RecordSpan | ForwardedSpan, token: Any = None) -> None:
        """Restore the context from before `span`, if the caller is still in the span's scope.

        It may not be: a finalizer runs in any thread or task, and the application may have attached its own
        context inside. That context stays, without kaspan's span.
        """
        if keep_context_if_collecting():
            span.is_left = True  # a ContextVar.set() that this interrupts may restore the span
        now = self.get()
        if now is during and self._reset_at_home(token):
            if before or token is None or self.variable is None:
                self.set(without_left_or_expired(before) if before else before)
            return
        # The caller may be in a copy of the context: a task that was started in the scope gets one. The span
        # must go from the context that entered it; if that cannot be reached, mark it as left. Then remove it
        # from the caller's copy too.
        if not self._leave_home(before, during, token):
            span.is_left = True
        if now.get(SPAN_KEY) is span:
            self.set(without_left_or_expired(before) if now is during else _without(now, before))

    def _reset_at_home(self, token: Any) -> bool:
        """Undo the `set` that returned the token, if the caller is in the same context and not in a copy.

        Returns whether it is. Without a token, or with another runtime context, it returns True and undoes
        nothing.
        """
        if token is None or self.variable is None:
            return True
        try:
            self.variable.reset(token)
        except (ValueError, RuntimeError):
            return False
        return True

    def _leave_home(self, before: Any, during: Any, token: Any) -> bool:
        """Restore what was before in the context that the token is from, which is not the caller's."""
        # A task of the event loop closes an abandoned asynchronous generator, with a copy of the context.
        # A token has no attribute for its context; gc.get_referents finds it.
        variable = self.variable
        homes = [] if variable is None else [one for one in gc.get_referents(token) if type(one) is _Context]
        if variable is None or not homes or homes[0].get(variable) is not during:
            return False
        try:
            homes[0].run(variable.set, without_left_or_expired(before))
        except RuntimeError:  # a caller further up runs in it
            return False
        return True


def is_over(span: RecordSpan | ForwardedSpan) -> bool:
    """Whether a current span of kaspan's has ended: it was left elsewhere, or its time is over."""
    return span.is_left or (span.expiry is not None and has_expired(span))


def without_left_or_expired(context: Any) -> Any:
    """Return the context without spans of kaspan's that `is_over`, as happens when two loops alternate.

    Other values in the context stay. The spans' own outer contexts are cleaned as well, and their number is
    limited to _MAX_NESTED.
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
    """Return a context with the span of `outer` in place of its own."""
    if len(context) == 1:
        return outer
    without = {key: value for key, value in context.items() if key != SPAN_KEY}
    if SPAN_KEY in outer:
        without[SPAN_KEY] = outer[SPAN_KEY]
    return without


def _holds(context: Any, span: object) -> bool:
    """Whether a span is current in a context, or in one of the outer contexts of that."""
    for _ in range(_MAX_NESTED):
        inner = context.get(SPAN_KEY)
        if inner is span:
            return True
        if not isinstance(inner, RecordSpan | ForwardedSpan):
            return False
        context = inner.outer_context or {}
    return False


def _without_earlier_records(context: Any, span: RecordSpan | ForwardedSpan) -> Any:
    """Return the context around a span without ended spans of earlier records of the same consumer.

    A task that is started in a loop's body and reads the next records is in the scope of the record before.
    """
    while (
        isinstance(inner := context.get(SPAN_KEY), RecordSpan)
        and inner.ended
        and isinstance(span, RecordSpan)
        and inner.consumer is span.consumer is not None
    ):
        context = inner.outer_context or {}
    return context
