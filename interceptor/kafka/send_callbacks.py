"""Run the callbacks of a send in its span, so that records which they send are in its trace."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.failures import finish, record_failure
from kaspan.interceptor.kafka import send_span as python_send_span
from kaspan.interceptor.tracing.extras import Extras
from kaspan.interceptor.tracing.span import RecordSpan
from kaspan.interceptor.tracing.tracing import Tracing
from kaspan.wire.context import TraceContext

SendSpan = accelerated(python_send_span.SendSpan)

_NOT_SAMPLED: TraceContext = (None, None, False, False)
_PATCHED = "_kaspan_patched"


def follow_callbacks(future_class: type, tracing: Tracing) -> None:
    """Patch `add_callback` and `add_errback` of FutureRecordMetadata, which send() returns.

    Calling it again does nothing.
    """
    for name in ("add_callback", "add_errback"):
        original = getattr(future_class, name)
        if getattr(original, _PATCHED, None) is not True:
            setattr(future_class, name, _within_span(original, tracing))


def _within_span(original: Callable[..., Any], tracing: Tracing) -> Callable[..., Any]:
    @functools.wraps(original)
    def add(self: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            # If the answer is there already, the callback is called now, in the caller's scope.
            span = None if self.is_done else _span_of(self, tracing)
            if span is not None:
                f = Callback(f, span, tracing)
        except Exception as error:  # noqa: BLE001
            record_failure("following a send's callback", error)
        return original(self, f, *args, **kwargs)

    setattr(add, _PATCHED, True)
    return add


def _span_of(future: Any, tracing: Tracing) -> RecordSpan | None:
    """Return the span of the send, to be a parent; None if kaspan does not trace the send."""
    callbacks = future._callbacks
    if callbacks is None:
        return None  # the answer has just come
    # The first callback is kaspan's: it was added before send() returned.
    send_span = next(iter(callbacks), None)
    topic = future._produce_future.topic_partition.topic
    if isinstance(send_span, SendSpan):
        span = RecordSpan(send_span.trace_id, send_span.span_id, send_span.parent_id, True)
        if send_span.extras is not None and send_span.extras.debug:
            span.extras = Extras(debug=True)
        scope = tracing.scope.current_span()
        if scope is not None and scope.get_span_context().trace_id == int(span.trace_id, 16):
            span.carry_state(scope)
    elif topic in tracing.excluded_topics:
        return None
    else:
        # Not sampled. Outside of its trace, nothing else is known of it.
        around = tracing.current()
        is_within = around is not None and around[2] is False
        span = tracing.child_of(around if is_within else _NOT_SAMPLED, "send", topic)
    span.title, span.service = f"send {topic}", tracing.service
    span.ended = True  # accepts no tags: kaspan's own callback, which reports it, is called first
    return span


class Callback:
    """A callback of the application that runs in the scope of its send's span."""

    __slots__ = ("_function", "_scope", "_span")

    def __init__(self, function: Callable[..., Any], span: RecordSpan, tracing: Tracing) -> None:
        self._function, self._span, self._scope = function, span, tracing.scope

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the callback while the span is current. Raises what it raises."""
        try:
            before, during = self._scope.enter(self._span)
        except Exception as error:  # noqa: BLE001
            record_failure("entering the span of a send", error)
            return self._function(*args, **kwargs)
        try:
            return self._function(*args, **kwargs)
        finally:
            self._leave(before, during)

    def _leave(self, before: Any, during: Any) -> None:
        try:
            self._scope.leave(before, during, self._span)
        except Exception as error:  # noqa: BLE001
            finish("leaving the span of a send", error, self._scope.leave, before, during, self._span)
