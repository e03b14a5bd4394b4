"""What `kaspan trace` and `kaspan traces` ask: a span store on this machine, or any Zipkin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from kaspan.store.query_request import QueryRequest
from kaspan.wire.span import Span


class SourceError(Exception):
    """The source cannot be read, or cannot answer; the message says why and what to do."""


class TraceSource(Protocol):
    """Traces by id and by search; their spans are in Zipkin's normal form. Methods raise SourceError."""

    name: str

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of a trace, none if it is not there."""

    def traces(self, request: QueryRequest) -> Iterator[list[Span]]:
        """Yield the traces that match, in the order that is asked for."""

    def services(self) -> list[str]:
        """Return the names of all services."""
