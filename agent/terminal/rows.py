"""A trace as rows from top to bottom: spans below what caused them, similar siblings folded into one row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kaspan.wire.span import Span

FOLD_OVER = 40
"""Traces of at most this many spans are shown whole."""
MIN_FOLDED = 4
"""Fewer similar siblings are shown one by one."""
_MAX_DEPTH = 16  # deeper spans are shown at this depth, to limit the length of lines

_Siblings = list[int]


class Wait(NamedTuple):
    """The time from the end of a send to the start of the processing of its record, in microseconds."""

    start_us: int
    end_us: int


class Row(NamedTuple):
    """One span, or several similar siblings.

    `guides` are the tree lines before the name, `below` those before text under it. `waits` are those of the
    spans that waited.
    """

    spans: list[Span]
    waits: list[Wait]
    guides: str
    below: str


def arrange(spans: Sequence[Span], *, fold: bool) -> Iterator[Row]:
    """Yield the rows of a trace: causes first, siblings by start. A span without its parent is a root.

    With `fold`, siblings of a trace of more than FOLD_OVER spans are one row if at least MIN_FOLDED have the
    same service, kind and name; those with an error are a row of their own. What they caused is folded too.
    Any parents are allowed: circles, double ids, any depth.
    """
    return _Tree(spans, fold and len(spans) > FOLD_OVER).rows()


def missing_parents(spans: Sequence[Span]) -> int:
    """Count the spans whose parents are not among them."""
    ids = {span.id for span in spans}
    return sum(span.parent_id is not None and span.parent_id not in ids for span in spans)


class _Tree:
    def __init__(self, spans: Sequence[Span], fold: bool) -> None:
        self._spans = sorted(spans, key=lambda span: (span.timestamp is None, span.timestamp or 0))
        self._fold = fold
        self._parents = _parents(self._spans)
        self._children: dict[int | None, _Siblings] = {}
        for index, parent in enumerate(self._parents):
            self._children.setdefault(parent, []).append(index)
        self._placed: set[int] = set()

    def rows(self) -> Iterator[Row]:
        for siblings in self._groups(self._children.get(None, []), is_below_folded=False):
            yield from self._walk(siblings)
        # A circle of parents has no root; it is entered at its first span.
        for index in range(len(self._spans)):
            if index not in self._placed:
                yield from self._walk([index])

    def _walk(self, root: _Siblings) -> Iterator[Row]:
        """Yield siblings and all below them. Not recursive: traces may be deep."""
        stack = [(root, "", "")]
        while stack:
            siblings, guides, below = stack.pop()
            self._placed.update(siblings)
            offspring = [
                child
                for index in siblings
                for child in self._children.get(index, ())
                if child not in self._placed
            ]
            groups = self._groups(sorted(offspring), is_below_folded=len(siblings) > 1)
            yield self._row(siblings, guides, below + ("│  " if groups else "   "))
            inside = below if len(below) < 3 * _MAX_DEPTH else below[:-3]
            for group in reversed(groups):
                last = group is groups[-1]
                stack.append(
                    (group, inside + ("└─ " if last else "├─ "), inside + ("   " if last else "│  "))
                )

    def _groups(self, siblings: _Siblings, *, is_below_folded: bool) -> list[_Siblings]:
        if not self._fold:
            return [[index] for index in siblings]
        similar: dict[object, _Siblings] = {}
        for index in siblings:
            span = self._spans[index]
            similar.setdefault((_service(span), span.kind, span.name, "error" in span.tags), []).append(index)
        groups = []
        for group in similar.values():
            if is_below_folded or len(group) >= MIN_FOLDED:
                groups.append(group)
            else:
                groups += [[index] for index in group]
        return sorted(groups)

    def _row(self, siblings: _Siblings, guides: str, below: str) -> Row:
        waits = [wait for index in siblings if (wait := self._wait(index))]
        return Row([self._spans[index] for index in siblings], waits, guides, below)

    def _wait(self, index: int) -> Wait | None:
        """Return the wait of a record that was read after its send was acknowledged."""
        span, parent = self._spans[index], self._parents[index]
        if parent is None or span.kind != "CONSUMER" or not span.timestamp:
            return None
        send = self._spans[parent]
        if send.kind != "PRODUCER" or not send.timestamp:
            return None
        sent_us = send.timestamp + (send.duration or 0)
        return Wait(sent_us, span.timestamp) if sent_us < span.timestamp else None


def _parents(spans: Sequence[Span]) -> list[int | None]:
    """Return the index of each span's parent. The parent of a shared span is the span with the same id.

    Of several servers with the same id, a span belongs to the one of its own service.
    """
    caller = {span.id: index for index, span in reversed(list(enumerate(spans))) if not span.shared}
    server = {(span.id, _service(span)): index for index, span in enumerate(spans) if span.shared}
    holder = {span.id: index for index, span in enumerate(spans) if span.shared} | caller
    parents = []
    for span in spans:
        parent_id = span.parent_id or ""
        parent = server.get((parent_id, _service(span)), holder.get(parent_id))
        parents.append(caller.get(span.id, parent) if span.shared else parent)
    return parents


def _service(span: Span) -> str | None:
    return span.local_endpoint.service_name if span.local_endpoint else None
