"""Read and write the trace context in record headers, in the formats that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kaspan.interceptor.tracing.excluded_topics import ExcludedTopics
from kaspan.interceptor.tracing.span import RecordSpan
from kaspan.wire import b3, tracecontext
from kaspan.wire.context import Headers, TraceContext, last_value

_OWNED = {
    "b3": (b3.HEADER,),
    "b3multi": b3.MULTI_HEADERS,
    "tracecontext": (tracecontext.HEADER,),
}


def _extract_b3(headers: Headers) -> TraceContext | None:
    value = last_value(headers, b3.HEADER)
    return None if value is None else b3.parse(value)


def _extract_tracecontext(headers: Headers) -> TraceContext | None:
    value = last_value(headers, tracecontext.HEADER)
    return None if value is None else tracecontext.parse(value)


_EXTRACTORS: dict[str, Callable[[Headers], TraceContext | None]] = {
    "b3": _extract_b3,
    "b3multi": b3.extract_multi,
    "tracecontext": _extract_tracecontext,
}


class Propagation:
    """Writes each format of `inject`; reads the formats of `extract` until one parses.

    Both are names of formats: b3, b3multi, tracecontext. Callers write nothing into records of
    `excluded_topics`.
    """

    def __init__(
        self, inject: Sequence[str], extract: Sequence[str], excluded_topics: ExcludedTopics
    ) -> None:
        self.excluded_topics = excluded_topics
        self._inject = tuple(inject)
        self._extractors = tuple(_EXTRACTORS[name] for name in extract)
        self.only_b3 = self._inject == ("b3",)
        self.is_b3_first = extract[:1] == ("b3",)
        # Removed before writing: a header of a format that is only read would contradict the new one.
        replaced = {key for name in (*inject, *extract) for key in _OWNED[name]}
        if tracecontext.HEADER in replaced:
            replaced.add(tracecontext.STATE_HEADER)
        self._replaced = frozenset(replaced)
        self.writes_state = "tracecontext" in inject
        """Whether an injected span must know its trace state."""

    def extract(self, headers: Headers) -> TraceContext | None:
        """Read the context in a record's headers (at least one); None if they have none.

        Never raises, whatever the headers hold.
        """
        if self.is_b3_first:
            # Producers append their header: look at the last one first.
            key, value = headers[-1]
            if key == "b3" and value is not None:
                found = b3.parse(value)
                if found is not None:
                    return found
        for extractor in self._extractors:
            found = extractor(headers)
            if found is not None:
                return found
        return None

    def without_context(self, headers: Headers) -> list[tuple[str, bytes | None]]:
        """Return a new list of the headers without those that hold a context, in order."""
        return [header for header in headers if header[0] not in self._replaced]

    def inject(self, headers: Headers | None, span: RecordSpan) -> list[tuple[str, bytes | None]]:
        """Return a new list: the headers without those that hold a context, in order, then this span's."""
        if not headers and self.only_b3:
            return [("b3", b3.format_single(span.trace_id, span.span_id, span.sampled, span.debug))]
        replaced = self._replaced
        new = [header for header in headers if header[0] not in replaced] if headers else []
        trace_id, span_id, sampled = span.trace_id, span.span_id, span.sampled
        for name in self._inject:
            if name == "b3":
                new.append(("b3", b3.format_single(trace_id, span_id, sampled, span.debug)))
            elif name == "b3multi":
                new.extend(b3.inject_multi(trace_id, span_id, sampled, span.debug))
            else:
                traceparent = tracecontext.format_traceparent(trace_id, span_id, sampled)
                new.append((tracecontext.HEADER, traceparent))
                if state := span.trace_state:
                    new.append((tracecontext.STATE_HEADER, state))
        return new
