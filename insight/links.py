"""Counts which service calls which: Zipkin's dependency links.

Source: DependencyLinker and DependencyLink of Zipkin 3.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from kaspan.insight.span_tree import SpanNode, build_tree
from kaspan.insight.trace import S, TraceSpan, clean_trace
from kaspan.wire.span import Endpoint

_MESSAGING = ("PRODUCER", "CONSUMER")


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

    def put_trace(self, spans: Sequence[S]) -> DependencyLinker:
        """Count one trace: all its spans, each once and in normal form, in the order in which they came."""
        if _are_only_messages(spans):
            for span in spans:
                self._put_message(span)
        elif spans:
            self.put_tree(build_tree(clean_trace(spans)))
        return self

    def put_tree(self, root: SpanNode[S]) -> None:
        """Count one trace that is a tree already."""
        queue: list[tuple[SpanNode[S], S | None]] = [(root, None)]
        for node, caller in queue:  # grows meanwhile; `caller` is the nearest ancestor that has a kind
            span = node.span
            kind = span.kind if span is not None else None
            nearest = caller if kind is None else span
            queue += [(child, nearest) for child in node.children]
            if span is None or (kind == "CLIENT" and node.children):
                continue
            if kind in _MESSAGING:
                self._put_message(span)
            else:
                self._put_call(span, caller)

    def _put_message(self, span: TraceSpan) -> None:
        local, remote = span.local_endpoint, span.remote_endpoint
        if local is None or remote is None or local.service_name is None or remote.service_name is None:
            return
        if span.kind == "CONSUMER":
            local, remote = remote, local
        link = local.service_name, remote.service_name
        self._calls[link] += 1  # type: ignore[index]  # neither is None
        if "error" in span.tags:
            self._errors[link] += 1  # type: ignore[index]  # neither is None

    def _put_call(self, span: TraceSpan, caller: TraceSpan | None) -> None:
        """Count one span that is not of messaging."""
        local, remote = _service(span.local_endpoint), _service(span.remote_endpoint)
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


def _is_error(span: TraceSpan, caller: TraceSpan | None) -> bool:
    """Whether a call failed, for its server or for the client of the same call."""
    if "error" in span.tags:
        return True
    if caller is None or caller.kind != "CLIENT" or span.parent_id != caller.id:
        return False
    return _service(caller.local_endpoint) is not None and "error" in caller.tags


def _are_only_messages(spans: Sequence[TraceSpan]) -> bool:
    """Whether each span counts for itself: all are of messaging, no two are one, none is its own ancestor.

    Most traces are so, and to see it costs a third of making a tree. To say False is never wrong: it is said
    where a parent did not begin before its child, as somewhere in each circle.
    """
    begins_us = {span.id: span.timestamp for span in spans}
    if len(begins_us) < len(spans):
        return False
    for span in spans:
        if span.kind not in _MESSAGING or span.shared:
            return False
        parent_id = span.parent_id
        if parent_id in begins_us:
            parent_us, child_us = begins_us[parent_id], span.timestamp
            if parent_us is None or child_us is None or parent_us >= child_us:
                return False
    return True
