"""Traces from a span store on this machine, which an agent may be writing meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator

from kaspan.cli.trace_source import SourceError
from kaspan.config import schema
from kaspan.store.query_request import QueryRequest
from kaspan.store.reader import Limits, QueryLimitError, StoreReader
from kaspan.store.span_store import StoreSettings
from kaspan.wire.span import Span

_LIMITS = Limits(timeout_s=60.0, max_bytes=1 << 30)


class StoreSource:
    """Reads the store that `store` names. Raises SourceError if there is none."""

    def __init__(self, store: schema.Store) -> None:
        self.name = f"the store {store.path}"
        self._is_searchable = store.search_enabled
        try:
            has_spans = any(name.endswith(".spans") for name in os.listdir(store.path))
        except (FileNotFoundError, NotADirectoryError):
            has_spans = False
        except OSError as error:
            raise SourceError(f"{self.name} cannot be read: {error.strerror}") from error
        if not has_spans:
            raise SourceError(
                f"there is no span store in {store.path}; `kaspan agent --store` and `kaspan server` write "
                "one. --store DIR reads another one, --zipkin URL asks a Zipkin"
            )
        self._reader = StoreReader(
            StoreSettings(
                path=store.path,
                max_bytes=store.max_bytes,
                max_age_s=store.max_age_s,
                strict_trace_id=store.strict_trace_id,
                search_enabled=store.search_enabled,
                autocomplete_keys=store.autocomplete_keys,
            ),
            _LIMITS,
        )

    def trace(self, trace_id: str) -> list[Span]:
        """Read one trace. Blocks for at most a minute."""
        try:
            return [span for portion in self._reader.get_trace(trace_id) for span in portion]
        except QueryLimitError as error:
            raise SourceError(str(error)) from error

    def traces(self, request: QueryRequest) -> Iterator[list[Span]]:
        """Search. Blocks for at most a minute."""
        if not self._is_searchable:
            raise SourceError(
                "agent.store.search_enabled is false, so this store can only be asked for a trace by its id"
            )
        try:
            for trace in self._reader.search(request):
                yield [span for portion in trace for span in portion]
        except QueryLimitError as error:
            raise SourceError(f"{error} Here these are --since, --service and --limit.") from error

    def services(self) -> list[str]:
        """Return the names of all services."""
        return self._reader.get_service_names()
