"""A reader of a span store in memory, for the query API."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from kaspan.store.query_request import QueryRequest
from kaspan.wire.span import Span
from support.in_memory_storage import InMemoryStorage

PORTION_SPANS = 2


class QueryReader:
    """Answers from `storage` and `large_traces`, in portions; a test may hold it up, or have it fail.

    `asked` counts queries that have begun; `ended` those of which nothing is open.
    """

    def __init__(self, autocomplete_keys: Sequence[str] = ()) -> None:
        self.storage = InMemoryStorage(autocomplete_keys=autocomplete_keys)
        self.large_traces: dict[str, list[Span]] = {}
        self.error: Exception | None = None
        self.error_after_portions = 0
        self.links: list[object] = []
        self.windows: list[tuple[int, int]] = []
        self.searches: list[QueryRequest] = []
        self.threads: set[str] = set()
        self.asked = self.ended = 0
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def _begin(self) -> None:
        self.asked += 1
        self.threads.add(threading.current_thread().name)
        assert self.may_go_on.wait(30)
        if self.error is not None and not self.error_after_portions:
            raise self.error

    def _portions(self, spans: list[Span]) -> Iterator[list[Span]]:
        for number, start in enumerate(range(0, len(spans), PORTION_SPANS)):
            if self.error is not None and number == self.error_after_portions:
                raise self.error
            yield spans[start : start + PORTION_SPANS]

    def search(self, request: QueryRequest) -> Iterator[Iterator[list[Span]]]:
        self._begin()
        self.searches.append(request)
        return (self._portions(trace) for trace in self.storage.get_traces(request))

    def get_trace(self, trace_id: str) -> Iterator[list[Span]]:
        try:
            self._begin()
            yield from self._portions(self.large_traces.get(trace_id) or self.storage.get_trace(trace_id))
        finally:
            self.ended += 1

    def get_trace_many(self, trace_ids: Sequence[str]) -> Iterator[list[Span]]:
        self._begin()
        return iter(self.storage.get_trace_many(trace_ids))

    def get_service_names(self) -> list[str]:
        self._begin()
        return self.storage.get_service_names()

    def get_span_names(self, service: str) -> list[str]:
        self._begin()
        return self.storage.get_span_names(service)

    def get_remote_service_names(self, service: str) -> list[str]:
        self._begin()
        return self.storage.get_remote_service_names(service)

    def get_autocomplete_values(self, key: str) -> list[str]:
        self._begin()
        return self.storage.get_autocomplete_values(key)

    def get_dependencies(self, end_ts_ms: int, lookback_ms: int) -> list[object]:
        self._begin()
        self.windows.append((end_ts_ms, lookback_ms))
        return self.links
