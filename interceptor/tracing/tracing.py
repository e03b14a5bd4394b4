"""One process's tracing: the current span, its children, and the decision whether a trace is recorded."""

from __future__ import annotations

from collections.abc import Callable

from opentelemetry.trace import Span

from kaspan.config.schema import Interceptor, Operation
from kaspan.interceptor.reporters.process_reporter import ProcessReporter
from kaspan.interceptor.tracing.captured_headers import CapturedHeaders
from kaspan.interceptor.tracing.excluded_topics import ExcludedTopics
from kaspan.interceptor.tracing.extras import Extras
from kaspan.interceptor.tracing.ids import new_span_id, new_trace_id, spare_ids
from kaspan.interceptor.tracing.propagation import Propagation
from kaspan.interceptor.tracing.sampling import Sampler
from kaspan.interceptor.tracing.scope import SPAN_KEY, Scope, without_left_or_expired
from kaspan.interceptor.tracing.span import ForwardedSpan, RecordSpan, has_expired
from kaspan.wire.context import TraceContext

_NO_PARENT: TraceContext = (None, None, None, False)


class Tracing:
    """What the patched methods use, for `service` under `settings`. Thread-safe. Works in forked children."""

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
        """The topics of which nothing is recorded."""
        captured_headers = settings.capture_headers
        self.captured_headers = CapturedHeaders(captured_headers) if captured_headers else None
        self.reporter = ProcessReporter(service, settings)
        self.on_client: Callable[[], None] | None = None
        """Called when the application uses a producer or consumer for the first time."""
        self.on_consumer: Callable[[type], None] | None = None
        """Called with the class of its records when the application uses a consumer for the first time."""

    def current(self, ignoring: object = None) -> TraceContext | None:
        """Return the current span, kaspan's or OpenTelemetry's, as a parent; None without one.

        Skips the spans of one consumer's records: those whose `consumer` is `ignoring`.
        """
        context = self._get_context()
        while context:
            span = context.get(SPAN_KEY)
            if isinstance(span, RecordSpan | ForwardedSpan) and (
                span.is_left or (span.expiry is not None and has_expired(span))
            ):
                context = without_left_or_expired(context)
            elif not isinstance(span, RecordSpan):
                return None if span is None else _other_context(span)
            elif ignoring is None or span.consumer is not ignoring:
                return span.trace_id, span.span_id, span.sampled, span.debug
            else:
                context = span.outer_context
        return None

    def child_of(self, parent: TraceContext | None, operation: Operation | None, topic: str) -> RecordSpan:
        """Make a span under `parent`; in a new trace if that is None, or only a sampling decision.

        `operation` and `topic` are those of the span's record, for the sampling of a new trace.
        """
        known_id, parent_id, sampled, debug = _NO_PARENT if parent is None else parent
        try:
            span_id = spare_ids.pop()
            trace_id = known_id or spare_ids.pop() + spare_ids.pop()
        except IndexError:
            span_id = new_span_id()
            trace_id = known_id or new_trace_id()
        if sampled is None:
            sampled = self._samples_all or self.sampler.is_sampled(trace_id, operation, topic)
        span = RecordSpan(trace_id, span_id, parent_id, sampled)
        if debug:
            span.extras = Extras(debug=True)
        return span


def _other_context(span: Span) -> TraceContext | None:
    context = span.get_span_context()
    if not context.is_valid:
        return None
    return b"%032x" % context.trace_id, b"%016x" % context.span_id, context.trace_flags.sampled, False
