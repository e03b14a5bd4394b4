"""Counts which service calls which: Zipkin's dependency links.

Source: DependencyLinker and DependencyLink of Zipkin 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from kaspan.insight.span_tree import SpanNode, build_tree
from kaspan.insight.trace import S, TraceSpan, clean_trace
from kaspan.wire.span import Endpoint


class DependencyLink(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """How often `parent` called `child`, and how many of those calls failed."""

    parent: str
    child: str
    call_count: int
    error_count: int = 0


class DependencyLinker:
    """Adds up the links of traces.

    Links lead to servers. A client's span counts only if nothing came from its server. There is no link
    between a producer and a consumer: each has one with its broker, if it names the broker.
    """

    def __init__(self) -> None:
        self._calls: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._errors: defaultdict[tuple[str, str], int] = defaultdict(int)

    def put_trace(self, spans: Iterable[S]) -> DependencyLinker:
        """Count one trace: all its spans, each once and in normal form, in the order in which they came."""
        cleaned = clean_trace(spans)
        if cleaned:
            self.put_tree(build_tree(cleaned))
        return self

    def put_tree(self, root: SpanNode[S]) -> None:
        """Count one trace that is a tree already."""
        calls, errors = self._calls, self._errors
        queue: list[tuple[SpanNode[S], S | None]] = [(root, None)]
        for node, caller in queue:  # grows meanwhile; `caller` is the nearest ancestor that has a kind
            span = node.span
            if span is None:
                queue += [(child, None) for child in node.children]
                continue
            kind = span.kind
            if node.children:
                nearest = caller if kind is None else span
                for child in node.children:
                    queue.append((child, nearest))
                if kind == "CLIENT":
                    continue
            here, there = span.local_endpoint, span.remote_endpoint
            local = here.service_name if here is not None else None
            remote = there.service_name if there is not None else None
            if kind not in ("PRODUCER", "CONSUMER"):
                self._put_call(span, local, remote, caller)
            elif local is not None and remote is not None:
                link = (local, remote) if kind == "PRODUCER" else (remote, local)
                calls[link] += 1
                if "error" in span.tags:
                    errors[link] += 1

    def _put_call(
        self, span: TraceSpan, local: str | None, remote: str | None, caller: TraceSpan | None
    ) -> None:
        """Count one span that is not of messaging."""
        above = _service(caller.local_endpoint) if caller is not None else None
        if span.kind == "SERVER":
            self._add(above or remote, local, _is_error(span, caller))
        elif span.kind is not None or (local and remote):
            if above and local and above != local:
                # The span of the server in between is missing.
                self._add(above, local, is_error=False)
            self._add(local or above, remote, _is_error(span, caller))

    def link(self) -> list[DependencyLink]:
        """Return the links of all traces so far, in the order in which they were first seen."""
        return [
            DependencyLink(parent, child, calls, self._errors.get((parent, child), 0))
            for (parent, child), calls in self._calls.items()
        ]

    def _add(self, parent: str | None, child: str | None, is_error: bool) -> None:
        if parent is None or child is None:
            return
        self._calls[parent, child] += 1
        if is_error:
            self._errors[parent, child] += 1


def _service(endpoint: Endpoint | None) -> str | None:
    return endpoint.service_name if endpoint is not None else None


def _service_of(span: TraceSpan | None) -> str | None:
    return _service(span.local_endpoint) if span is not None else None


def _is_error(span: TraceSpan, caller: TraceSpan | None) -> bool:
    """Whether a call failed, for its server or for the client of the same call."""
    if "error" in span.tags:
        return True
    if caller is None or caller.kind != "CLIENT" or span.parent_id != caller.id:
        return False
    return _service_of(caller) is not None and "error" in caller.tags
