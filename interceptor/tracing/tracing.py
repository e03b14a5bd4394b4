"""One process's tracing: identifiers, sampling, the current span and the way of a span into the ring."""

from __future__ import annotations

import atexit
import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from opentelemetry.trace import Span

from kaspan.config.schema import Interceptor, Operation
from kaspan.interceptor.failures import is_from_outside, pass_on, record_failure, tell_suppressed
from kaspan.interceptor.reporters.build import Reporters
from kaspan.interceptor.tracing.extras import Extras
from kaspan.interceptor.tracing.propagation import Propagation
from kaspan.interceptor.tracing.sampling import CapturedHeaders, ExcludedTopics, Sampler
from kaspan.interceptor.tracing.scope import SPAN_KEY, Scope, without_left_spans
from kaspan.interceptor.tracing.span import ForwardedSpan, RecordSpan, has_expired
from kaspan.wire import VERSION
from kaspan.wire.context import TraceContext

if TYPE_CHECKING:
    from kaspan.interceptor.reporters.http import HttpReporter
    from kaspan.interceptor.reporters.ring import SpanRing

RING_RETRY_S = 60.0
"""How long spans are dropped after a ring could not be made, before it is tried again."""

_IDS_AT_ONCE = 512
_MAX_EARLY_SPANS = 1000
_NO_PARENT: TraceContext = (None, None, None, False)


class Tracing:
    """Everything a patched method needs, for `service` under `settings`. Thread-safe; survives fork."""

    def __init__(self, service: str, settings: Interceptor) -> None:
        self.service = service
        self.remote_service = settings.remote_service
        propagation = settings.propagation
        self.propagation = Propagation(
            propagation.inject, propagation.extract, ExcludedTopics(propagation.exclude_topics)
        )
        self.scope = Scope()
        self._get_context = self.scope.get
        self.sampler = Sampler(settings.sampling)
        self._samples_all = self.sampler.samples_all
        self.excluded_topics = ExcludedTopics(settings.exclude_topics)
        """Those of which nothing is recorded."""
        captured_headers = settings.capture_headers
        self.captured_headers = CapturedHeaders(captured_headers) if captured_headers else None
        self._reporters = Reporters(settings)
        self._ring: SpanRing | HttpReporter | None = None
        # Before any producer has its own: what is acknowledged while that one closes is reported as well.
        atexit.register(self._close)
        self.on_client: Callable[[], None] | None = None
        """Called when the application uses a producer or consumer for the first time."""
        self.on_consumer: Callable[[type], None] | None = None
        """Called with the class of its records when the application uses a consumer for the first time."""
        self._begin_life()
        os.register_at_fork(after_in_child=self._after_fork)

    def _begin_life(self) -> None:
        self.process_start_ns = time.perf_counter_ns()
        """A span that started earlier is the parent's, from before a fork, and the parent's to report."""
        self.report: Callable[[bytes], None] = self._report_first
        """report(span_json): put one span into the process's ring. Never blocks, but that the first span
        makes the ring; drops and counts what does not fit."""
        self.ids: list[bytes] = []
        """Span ids for later, which `new_id` makes more of."""
        self._early: deque[bytes] = deque()
        self._opening = threading.Lock()
        self._retry_at_s = 0.0

    def _after_fork(self) -> None:
        ring, self._ring = self._ring, None
        tell_suppressed(None)
        self._begin_life()
        if ring is not None:
            try:
                ring.abandon()
            except (OSError, BufferError) as error:
                record_failure("letting go of the parent's ring", error)

    def new_id(self) -> bytes:
        """A new span id: 16 hex digits."""
        # From the system and by the hundred: an application that calls random.seed() repeats no trace id.
        try:
            return self.ids.pop()
        except IndexError:
            digits = os.urandom(8 * _IDS_AT_ONCE).hex().encode()
            self.ids.extend([digits[at : at + 16] for at in range(0, len(digits), 16)])
            return self.new_id()

    def current(self, ignoring: object = None) -> TraceContext | None:
        """The span in scope as a parent, whoever made it; None when there is none.

        Passes over the spans of records of `ignoring`, which one consumer's records have as their `consumer`.
        """
        context = self._get_context()
        while context:
            span = context.get(SPAN_KEY)
            if isinstance(span, RecordSpan | ForwardedSpan) and (
                span.is_left or (span.expiry is not None and has_expired(span))
            ):
                context = without_left_spans(context)
            elif not isinstance(span, RecordSpan):
                return None if span is None else _foreign(span)
            elif ignoring is None or span.consumer is not ignoring:
                return span.trace_id, span.span_id, span.sampled, span.debug
            else:
                context = span.outer_context
        return None

    def child_of(self, parent: TraceContext | None, operation: Operation | None, topic: str) -> RecordSpan:
        """Make a span under `parent`, in a new trace where there is none or only a decision.

        `operation` and `topic` are the record's, if it is about one; they count where the decision is still
        to be made.
        """
        known_id, parent_id, sampled, debug = _NO_PARENT if parent is None else parent
        try:
            pop = self.ids.pop
            span_id = pop()
            trace_id = known_id or pop() + pop()
        except IndexError:
            span_id = self.new_id()
            trace_id = known_id or self.new_id() + self.new_id()
        if sampled is None:
            sampled = self._samples_all or self.sampler.is_sampled(trace_id, operation, topic)
        span = RecordSpan(trace_id, span_id, parent_id, sampled)
        if debug:
            span.extras = Extras(debug=True)
        return span

    def _report_first(self, payload: bytes) -> None:
        """Make the ring; a span that comes meanwhile, from a thread or a finalizer, waits in `_early`."""
        if len(self._early) < _MAX_EARLY_SPANS:
            self._early.append(payload)
        try:
            self._put_early()
        except BaseException as error:  # noqa: BLE001 (raised here, it would have the span reported again)
            if is_from_outside(error):
                self._put_early()
            pass_on("making the span ring", error)

    def _put_early(self) -> None:
        early = self._early
        if self._opening.acquire(False):
            try:
                if self._ring is None:
                    self._ring = self._make_ring()
            finally:
                self._opening.release()
            if self._ring is None:
                early.clear()
        ring = self._ring
        while ring is not None and early:
            try:
                ring.put(early.popleft())
            except IndexError:
                return  # another thread took it

    def _make_ring(self) -> SpanRing | HttpReporter | None:
        if time.monotonic() < self._retry_at_s:
            return None
        try:
            ring = self._reporters.make(self._process())
        except (OSError, ValueError, ImportError) as error:
            record_failure("making the span ring (spans are dropped meanwhile)", error)
            self._retry_at_s = time.monotonic() + RING_RETRY_S
            return None
        self.report = ring.put
        tell_suppressed(ring.note_suppressed)
        return ring

    def _close(self) -> None:
        if self._ring is not None:
            self._ring.close()

    def _process(self) -> dict[str, object]:
        return {
            "service": self.service,
            "pid": os.getpid(),
            "start_us": time.time_ns() // 1000,
            "kaspan": VERSION,
            # Nothing is imported here: the process may have another root or user by now than its modules.
            "kafka_python": getattr(sys.modules.get("kafka"), "__version__", "unknown"),
            "python": platform.python_version(),
        }


def _foreign(span: Span) -> TraceContext | None:
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return b"%032x" % context.trace_id, b"%016x" % context.span_id, context.trace_flags.sampled, False
