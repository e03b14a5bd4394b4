"""A trace as a tree of spans.

Source: SpanNode of Zipkin 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Generic

import msgspec

from kaspan.insight.trace import S
from kaspan.wire.span import Endpoint

_Key = str | tuple[str | int | None, ...]
"""What a span is found by: its id, and if it shares that with its client, its endpoint as well."""

_shared = attrgetter("shared")


class SpanNode(msgspec.Struct, Generic[S], eq=False, gc=False):
    """A span and the spans that it caused, in the order of their timestamps.

    The span is None only in the root of a trace that has no root: the children are the spans whose parents
    are missing. Nodes do not know their parents, so that a tree is freed at once; `traverse` tells them.
    """

    span: S | None
    children: list[SpanNode[S]]

    def traverse(self) -> Iterator[tuple[SpanNode[S], SpanNode[S] | None]]:
        """Yield each node that has a span, and its parent, breadth first. The parent may have no span."""
        level: list[tuple[SpanNode[S], SpanNode[S] | None]] = [(self, None)]
        for node, parent in level:  # grows meanwhile
            if node.span is not None:
                yield node, parent
            level += [(child, node) for child in node.children]


def build_tree(spans: Sequence[S]) -> SpanNode[S]:
    """Return the root of a trace that was cleaned up (`clean_trace`) and is not empty.

    The first span without a parent is the root. Further ones, and spans whose parent is missing, are its
    children. Spans that are their own ancestors are left out; so are, where several spans have one id, those
    that lost it to another.
    """
    nodes: dict[_Key, SpanNode[S]] = {span.id: SpanNode(span, []) for span in spans}
    if len(nodes) < len(spans) or any(map(_shared, spans)):
        return _tree_of_shared_ids(spans)
    parent_ids = [span.parent_id for span in spans]
    root: SpanNode[S] = SpanNode(None, [])
    if None in parent_ids:
        root = nodes[spans[parent_ids.index(None)].id]
    for node, parent_id in zip(nodes.values(), parent_ids, strict=True):
        if node is not root:
            nodes.get(parent_id, root).children.append(node)  # type: ignore[arg-type]  # None is not among them
    _sort_children(root, nodes)
    return root


def _tree_of_shared_ids(spans: Sequence[S]) -> SpanNode[S]:
    """Return the root where servers go on with their client's span, or spans have the same id by mistake."""
    parents: dict[_Key, _Key | None] = {}
    for span in spans:
        if span.shared:
            parents[_shared_key(span.id, span.local_endpoint)] = span.id
        else:
            parents[span.id] = span.parent_id
    nodes: dict[_Key, SpanNode[S]] = {}
    root: SpanNode[S] | None = None
    for span in spans:
        node = SpanNode(span, [])
        if span.shared:
            # Also without the endpoint, for spans inside the server that do not know theirs.
            nodes[_shared_key(span.id, span.local_endpoint)] = nodes[_shared_key(span.id, None)] = node
        elif span.parent_id is None and root is None:
            root = node
            parents.pop(span.id, None)
        else:
            nodes[span.id] = node
            if span.parent_id is not None:
                server = _shared_key(span.parent_id, span.local_endpoint)
                if server in parents:
                    parents[span.id] = server
    root = root or SpanNode(None, [])
    for key, parent in parents.items():
        (root if parent is None else nodes.get(parent, root)).children.append(nodes[key])
    _sort_children(root, nodes)
    return root


def _shared_key(span_id: str, endpoint: Endpoint | None) -> _Key:
    if endpoint is None:
        return (span_id,)
    return span_id, endpoint.service_name, endpoint.ipv4, endpoint.ipv6, endpoint.port


def _sort_children(root: SpanNode[S], nodes: dict[_Key, SpanNode[S]]) -> None:
    for node in (root, *nodes.values()):
        if len(node.children) > 1:
            node.children.sort(key=_timestamp_us)


def _timestamp_us(node: SpanNode[S]) -> int:
    return (node.span.timestamp or 0) if node.span is not None else 0
