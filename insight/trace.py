"""Cleans a trace up: one span for each operation of each service, however it was reported.

Spans come in pieces, and twice. Some libraries cut trace ids to 64 bits, and some servers that go on with
their client's span forget to say so, or forget its parent. Whatever looks at a trace's structure cleans it up
first.

Source: Trace of Zipkin 3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from kaspan.wire.span import Annotation, Endpoint


class TraceSpan(Protocol):
    """What the structure of a trace is made of; `kaspan.wire.span.Span` has it, in normal form.

    Normal form is that of Zipkin's Span.Builder: ids are padded, names are in lower case, and what is empty,
    zero or false is None. Implementations are msgspec structs. Where several spans may have one id, they need
    everything that a `Span` has.
    """

    trace_id: str
    id: str
    parent_id: str | None
    kind: str | None
    timestamp: int | None
    local_endpoint: Endpoint | None
    remote_endpoint: Endpoint | None
    shared: bool | None

    @property
    def tags(self) -> Container[str]:
        """The tags, by name."""


S = TypeVar("S", bound=TraceSpan)
LONG_ID = 32
"""The length of a trace id of 128 bits; others have half of that."""
_id, _trace_id = attrgetter("id"), attrgetter("trace_id")


def clean_trace(spans: Iterable[S]) -> list[S]:
    """Return a trace's spans in normal form, merged, completed, and ordered by id.

    All spans must be of one trace: the low 64 bits of their trace ids are the same. Spans that change are
    copied. Which of two contradicting pieces wins depends on their order, as in Zipkin.
    """
    ordered = sorted(spans, key=_id)
    if len(ordered) <= 1:
        return ordered
    are_distinct = len(set(map(_id, ordered))) == len(ordered)
    if not are_distinct:
        ordered.sort(key=_place)
    cleaned = ordered if are_distinct else _merge(ordered)
    if len(set(map(_trace_id, ordered))) == 1:
        return cleaned
    return _with_long_id(cleaned, [span.trace_id for span in ordered if len(span.trace_id) == LONG_ID])


def _with_long_id(spans: list[S], long_ids: list[str]) -> list[S]:
    """Replace trace ids of 64 bits by the first one of 128 bits."""
    if not long_ids:
        return spans
    trace_id = long_ids[0]
    return [span if len(span.trace_id) == LONG_ID else _changed(span, trace_id=trace_id) for span in spans]


def _place(span: TraceSpan) -> tuple[Any, ...]:
    """Return a key that sorts spans of one id: clients first, those that share their client's id last."""
    rank = 2 if span.shared else 0 if span.kind == "CLIENT" else 1
    return span.id, rank, _endpoint_place(span.local_endpoint)


def _endpoint_place(endpoint: Endpoint | None) -> tuple[Any, ...]:
    """Return a key that sorts spans without an endpoint first: their data goes to the span after them."""
    if endpoint is None:
        return ()
    return tuple(
        (text is None, utf16(text or "")) for text in (endpoint.service_name, endpoint.ipv4, endpoint.ipv6)
    )


def utf16(text: str) -> bytes:
    """Return a key that sorts texts as Java does."""
    return text.encode("utf-16-be", "surrogatepass")


def _merge(ordered: Sequence[S]) -> list[S]:
    merged: list[S] = []
    index = 0
    while index < len(ordered):
        first = ordered[index]
        pieces, endpoint = [first], first.local_endpoint
        index += 1
        while index < len(ordered) and _is_piece(first, endpoint, ordered[index]):
            pieces.append(ordered[index])
            endpoint = _combined_endpoint([endpoint, ordered[index].local_endpoint])
            index += 1
        span = _combined(pieces) if len(pieces) > 1 else first
        if merged and merged[-1].id == first.id:
            span = _joined(merged[-1], first, span)
        merged.append(span)
    return merged


def _is_piece(first: TraceSpan, endpoint: Endpoint | None, other: TraceSpan) -> bool:
    """Whether a span looks like a part of one that was sent in pieces, which is of this endpoint so far."""
    if first.id != other.id or bool(first.shared) != bool(other.shared):
        return False
    if endpoint is None or other.local_endpoint is None:
        return True
    return all(
        mine is None or theirs is None or mine == theirs
        for mine, theirs in zip(_values(endpoint), _values(other.local_endpoint), strict=True)
    )


def _combined(pieces: Sequence[S]) -> S:
    changes: dict[str, Any] = {}
    for name in pieces[0].__struct_fields__:  # type: ignore[attr-defined]  # a protocol cannot be a struct
        said = [value for piece in pieces if (value := getattr(piece, name)) is not None]
        if said:
            changes[name] = _COMBINED[name](said) if name in _COMBINED else said[0]
    return _changed(pieces[0], **changes)


def _values(endpoint: Endpoint) -> tuple[Any, ...]:
    return endpoint.service_name, endpoint.ipv4, endpoint.ipv6, endpoint.port


def _combined_endpoint(pieces: Iterable[Endpoint | None]) -> Endpoint | None:
    """Return what the pieces say of an endpoint, the first of those that say it."""
    columns = zip(*(_values(piece) for piece in pieces if piece is not None), strict=True)
    values = [next((value for value in column if value is not None), None) for column in columns]
    return Endpoint(*values) if values else None


def _combined_annotations(pieces: Iterable[list[Annotation]]) -> list[Annotation]:
    distinct = {(item.timestamp, item.value): item for item in chain.from_iterable(pieces)}
    return [distinct[key] for key in sorted(distinct, key=lambda key: (key[0], utf16(key[1])))]


def _combined_tags(pieces: Iterable[dict[str, str]]) -> dict[str, str]:
    """Return all tags. Of the same one, the last piece counts."""
    return dict(chain.from_iterable(piece.items() for piece in pieces))


_COMBINED: dict[str, Callable[[Any], Any]] = {
    "local_endpoint": _combined_endpoint,
    "remote_endpoint": _combined_endpoint,
    "annotations": _combined_annotations,
    "tags": _combined_tags,
}


def _joined(client: S, first: S, span: S) -> S:
    """Complete a span that comes after another one with its id: a server that goes on with its client's span.

    `first` is the piece of it that came first: only what that one says counts here.
    """
    changes: dict[str, Any] = {}
    if client.kind == "CLIENT" and first.kind == "SERVER" and not first.shared:
        changes["shared"] = True
    if (first.shared or changes) and first.parent_id is None and client.parent_id is not None:
        changes["parent_id"] = client.parent_id
    return _changed(span, **changes) if changes else span


def _changed(span: S, **changes: Any) -> S:
    changed = copy.copy(span)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed
