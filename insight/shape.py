"""The shape of a trace: which service did what after what, without times and ids."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

import msgspec

from kaspan.insight.span_tree import SpanNode
from kaspan.wire.span import Span

MAX_DEPTH = 64
"""Spans deeper than this are not part of a shape: retries in endless chains are one shape."""
INDENT = "  "


class Shape(msgspec.Struct, frozen=True):
    """`text` has a line for each distinct branch, indented under its parent; `hash` is that of the text.

    A line is `service KIND name`, with `-` for what is missing, and ` x2+`, ` x4+`, ` x8+` and so on where
    that many equal branches stand side by side: a batch of 5 records and one of 7 have the same shape.
    """

    hash: str
    text: str


def shape(root: SpanNode[Span]) -> Shape:
    """Return the shape of a trace's tree.

    The order of siblings does not count, and spans deeper than MAX_DEPTH do not either.
    """
    text = "\n".join(_lines(root))
    return Shape(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest(), text)


def _lines(root: SpanNode[Span]) -> list[str]:
    """Return the lines of a branch: its own, then those of its children, sorted, equal ones counted."""
    lines = [] if root.span is None else [_name(root.span)]
    lines += _children(root, 0 if root.span is None else 1)
    return lines


def _children(node: SpanNode[Span], depth: int) -> list[str]:
    if depth >= MAX_DEPTH:
        return []
    branches: Counter[tuple[str, ...]] = Counter()
    for child in node.children:
        if child.span is not None:
            branch = (_name(child.span), *_children(child, depth + 1))
            branches[branch] += 1
    indent = INDENT if depth else ""
    lines: list[str] = []
    for branch, times in sorted(branches.items()):
        count = f" x{1 << (times.bit_length() - 1)}+" if times > 1 else ""
        lines.append(f"{indent}{branch[0]}{count}")
        lines += [f"{indent}{line}" for line in branch[1:]]
    return lines


def _name(span: Span) -> str:
    service = span.local_endpoint.service_name if span.local_endpoint else None
    words = (service or "-", span.kind or "-", span.name or "-")
    return " ".join(word.replace("\n", " ") for word in words)
