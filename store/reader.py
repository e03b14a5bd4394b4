"""The span store for reading: traces, searches and names, with Zipkin's meaning of them.

Source: InMemoryStorage of Zipkin 3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from kaspan.insight.links import DependencyLink
from kaspan.store.limits import Budget, Limits, QueryLimitError
from kaspan.store.links import Window, get_dependencies
from kaspan.store.normal_form import normalize_trace_id, sorted_texts
from kaspan.store.partition_readers import PartitionReaders
from kaspan.store.query_request import QueryRequest
from kaspan.store.search import Search
from kaspan.store.span_store import StoreSettings
from kaspan.store.trace_reader import Portion, TraceReader, grouped
from kaspan.wire.span import Span

__all__ = ["Limits", "QueryLimitError", "StoreReader"]

_Names = Callable[[str], list[str]]


class StoreReader:
    """Reads a store, with or without a process that writes it. Any thread may call any method.

    Every span of an answer is in normal form; its endpoints are shared with other spans. Every method raises
    QueryLimitError when a limit is passed. A partition that cannot be read is left out (`damaged`).
    """

    def __init__(
        self,
        settings: StoreSettings,
        limits: Limits = Limits(),  # noqa: B008  it cannot be changed
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._limits = limits
        self._clock_s = clock_s
        self._partitions = PartitionReaders(settings.path, clock_s)

    @property
    def damaged(self) -> frozenset[str]:
        """The partitions, and blocks in them, that could not be read so far."""
        return self._partitions.damaged

    def _budget(self) -> Budget:
        return Budget(self._limits, self._clock_s)

    def get_traces(self, request: QueryRequest) -> list[list[Span]]:
        """Search traces: those with the newest spans in the time of the search first.

        With order `longest`, those first that have the longest span; of the service, if one is asked for.
        There may be more than `limit` traces if several have the same lower 64 bits of their ids, as in
        Zipkin. What a large store may get wrong, so that no search reads all of it: search.py.
        """
        budget = self._budget()
        found: list[list[Span]] = []
        size = 0
        for trace in self._search(request, budget):
            spans: list[Span] = []
            for portion in trace:
                spans += portion.spans
                size += portion.bytes
                budget.check_list(size)
            found.append(spans)
        return found

    def search(self, request: QueryRequest) -> Iterator[Iterator[list[Span]]]:
        """Search as `get_traces` does, and yield each trace in portions: in bounded memory, of any size.

        Take all portions of a trace before the next trace.
        """
        budget = self._budget()
        return (self._counted(trace, budget) for trace in self._search(request, budget))

    def _search(self, request: QueryRequest, budget: Budget) -> Iterator[Iterator[Portion]]:
        if not self._settings.search_enabled:
            return iter(())
        return Search(request, self._partitions.all(), self._settings.strict_trace_id, budget).traces()

    @staticmethod
    def _counted(portions: Iterable[Portion], budget: Budget) -> Iterator[list[Span]]:
        for portion in portions:
            budget.add_bytes(portion.bytes)
            yield portion.spans
            budget.restart()

    def get_trace(self, trace_id: str) -> Iterator[list[Span]]:
        """Yield the distinct spans of a trace: a large one in portions, nothing if there is no such trace.

        Raises ValueError, with Zipkin's text, for what is not 1 to 32 hex digits or is zero.
        """
        trace_id = normalize_trace_id(trace_id)
        budget = self._budget()
        return self._counted(self._trace(trace_id, budget), budget)

    def _trace(self, trace_id: str, budget: Budget) -> Iterator[Portion]:
        reader = TraceReader(self._partitions.all(), budget)
        low = trace_id[-16:]
        for spans, size in reader.portions(low, reader.find([low]).get(low, [])):
            if not self._settings.strict_trace_id:
                yield Portion(spans, size)
            elif mine := [span for span in spans if span.trace_id == trace_id]:
                yield Portion(mine, size)

    def get_trace_many(self, trace_ids: Sequence[str]) -> Iterator[list[Span]]:
        """Yield several traces, in the order of their ids, each as a whole; none that is not in the store.

        Raises ValueError as `get_trace`.
        """
        wanted = list(dict.fromkeys(map(normalize_trace_id, trace_ids)))
        return self._many(wanted, self._budget())

    def _many(self, wanted: Sequence[str], budget: Budget) -> Iterator[list[Span]]:
        reader = TraceReader(self._partitions.all(), budget)
        low_ids = list(dict.fromkeys(trace_id[-16:] for trace_id in wanted))
        places = reader.find(low_ids)
        for low in low_ids:
            spans: list[Span] = []
            size = 0
            for portion in reader.portions(low, places.get(low, [])):
                spans += portion.spans
                size += portion.bytes
                budget.check_list(size)
            budget.add_bytes(size)
            for trace in grouped(spans, self._settings.strict_trace_id):
                if not self._settings.strict_trace_id or trace[0].trace_id in wanted:
                    yield trace
                    budget.restart()

    def get_service_names(self) -> list[str]:
        """Return the names of all services that recorded a span, sorted."""
        return self._names("select name from service_names where name != ''")

    def get_span_names(self, service: str) -> list[str]:
        """Return the names of a service's spans, sorted."""
        return self._names_of("span_names", service)

    def get_remote_service_names(self, service: str) -> list[str]:
        """Return the names of the services on the other side of a service's spans, sorted."""
        return self._names_of("remote_service_names", service)

    def get_autocomplete_keys(self) -> list[str]:
        """Return the tags whose values are kept for completion, as set."""
        return list(self._settings.autocomplete_keys) if self._settings.search_enabled else []

    def get_autocomplete_values(self, key: str) -> list[str]:
        """Return the sorted values of a tag of `get_autocomplete_keys`. Raises ValueError if it is empty."""
        if not key:
            raise ValueError("key was empty")
        if key not in self._settings.autocomplete_keys:
            return []
        return self._names("select value from tag_values where key = ?", key)

    def _names_of(self, table: str, service: str) -> list[str]:
        service = service.lower()
        if not service:
            return []
        return self._names(
            f"select name from {table} where service = (select id from service_names where name = ?)",  # noqa: S608  a name of ours
            service,
        )

    def _names(self, statement: str, *values: str) -> list[str]:
        if not self._settings.search_enabled:
            return []
        budget = self._budget()
        found: set[str] = set()
        for partition in self._partitions.all():
            budget.check_time()
            found.update(partition.names(statement, values))
        return sorted_texts(found)

    def get_dependencies(self, end_ts_ms: int, lookback_ms: int) -> list[DependencyLink]:
        """Return the links of all traces that have a span in this time, sorted by parent and child.

        Trace ids are the lower 64 bits, as in Zipkin. What a large store rounds: links.py. Raises ValueError,
        with Zipkin's text, for a time that is not positive.
        """
        for name, value in (("endTs", end_ts_ms), ("lookback", lookback_ms)):
            if value <= 0:
                raise ValueError(f"{name} <= 0")
        window = Window(end_ts_ms - lookback_ms, end_ts_ms)
        return get_dependencies(self._partitions.all(), window, self._budget())

    def close(self) -> None:
        """Close all files; queries that are running end first."""
        self._partitions.close()
