"""Zipkin's in-memory storage in Python: what a span store must answer.

Source: InMemoryStorage of Zipkin 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kaspan.store.normal_form import normalize_trace_id, sorted_texts
from kaspan.store.query_request import QueryRequest, local_service, remote_service
from kaspan.wire.span import Span


def low(trace_id: str) -> str:
    """Return the lower 64 bits of a trace id."""
    return trace_id[-16:]


def millis(span: Span) -> int:
    """Return a span's time in milliseconds, 0 if it has none."""
    return (span.timestamp or 0) // 1000


class InMemoryStorage:
    """All spans, in the order in which they came."""

    def __init__(self, strict_trace_id: bool = True, autocomplete_keys: Sequence[str] = ()) -> None:
        self.strict_trace_id = strict_trace_id
        self.autocomplete_keys = autocomplete_keys
        self.spans: list[Span] = []

    def accept(self, spans: Iterable[Span]) -> None:
        """Store spans in normal form."""
        self.spans.extend(spans)

    def _by_low_id(self, low_id: str) -> list[Span]:
        """Return a trace's distinct spans: those of one millisecond together, in the order of the first."""
        by_time: dict[int, list[Span]] = {}
        for span in self.spans:
            if low(span.trace_id) == low_id:
                same_time = by_time.setdefault(millis(span), [])
                if span not in same_time:
                    same_time.append(span)
        return [span for same_time in by_time.values() for span in same_time]

    def get_traces(self, request: QueryRequest) -> list[list[Span]]:
        """Search as Zipkin does."""
        services = {low(span.trace_id) for span in self.spans if local_service(span) == request.service_name}
        newest: dict[str, int] = {}
        for span in self.spans:
            low_id = low(span.trace_id)
            if request.service_name is not None and low_id not in services:
                continue
            if request.end_ts_ms - request.lookback_ms <= millis(span) <= request.end_ts_ms:
                newest[low_id] = max(newest.get(low_id, 0), millis(span))
        found: list[list[Span]] = []
        for low_id in sorted(newest, key=lambda low_id: (newest[low_id], low_id), reverse=True):
            if len(found) >= request.limit:
                break
            trace = self._by_low_id(low_id)
            if request.matches(trace):
                found += [part for part in self._grouped(trace) if request.matches(part)]
        return found

    def _grouped(self, trace: list[Span]) -> Iterator[list[Span]]:
        if not self.strict_trace_id:
            yield trace
            return
        for trace_id in dict.fromkeys(span.trace_id for span in trace):
            yield [span for span in trace if span.trace_id == trace_id]

    def get_trace(self, trace_id: str) -> list[Span]:
        """Return a trace's spans, none if there is no such trace."""
        trace_id = normalize_trace_id(trace_id)
        trace = self._by_low_id(low(trace_id))
        return [span for span in trace if span.trace_id == trace_id or not self.strict_trace_id]

    def get_trace_many(self, trace_ids: Iterable[str]) -> list[list[Span]]:
        """Return several traces. Unlike Zipkin with lenient ids, no empty list for an unknown one."""
        wanted = list(dict.fromkeys(map(normalize_trace_id, trace_ids)))
        return [
            part
            for low_id in dict.fromkeys(map(low, wanted))
            for part in self._grouped(self._by_low_id(low_id))
            if part and (part[0].trace_id in wanted or not self.strict_trace_id)
        ]

    def get_service_names(self) -> list[str]:
        """Return all services that recorded a span."""
        return sorted_texts(service for span in self.spans if (service := local_service(span)))

    def get_span_names(self, service: str) -> list[str]:
        """Return the names of a service's spans."""
        return sorted_texts(span.name for span in self._of(service) if span.name)

    def get_remote_service_names(self, service: str) -> list[str]:
        """Return the services on the other side of a service's spans."""
        return sorted_texts(remote for span in self._of(service) if (remote := remote_service(span)))

    def _of(self, service: str) -> list[Span]:
        return [span for span in self.spans if local_service(span) == service.lower()] if service else []

    def get_autocomplete_values(self, key: str) -> list[str]:
        """Return the values of a tag, if it is one of the keys to complete."""
        if key not in self.autocomplete_keys:
            return []
        return sorted_texts(span.tags[key] for span in self.spans if key in span.tags)
