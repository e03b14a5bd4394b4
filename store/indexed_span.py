"""Decodes only what the index needs of a span, and keeps its JSON as it came."""

from __future__ import annotations

import msgspec

from kaspan.store.lenient_json import read_span
from kaspan.store.normal_form import take_apart

_NO_TAGS = msgspec.Raw(b"{}")
_FIRST = b'{"traceId":'
_NEXT = b"," + _FIRST


class _Endpoint(msgspec.Struct, gc=False, rename="camel"):
    service_name: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    value: str


class IndexedSpan(msgspec.Struct, gc=False, rename="camel"):
    """What the index needs of a span, not in normal form. `tags` is their JSON."""

    trace_id: str
    id: str
    name: str | None = None
    timestamp: int | None = None
    duration: int | None = None
    local_endpoint: _Endpoint | None = None
    remote_endpoint: _Endpoint | None = None
    annotations: list[_Annotation] | None = None
    tags: msgspec.Raw = _NO_TAGS


_decode = msgspec.json.Decoder(IndexedSpan).decode


def read_spans(spans: bytes) -> list[tuple[bytes, IndexedSpan]]:
    """Return the JSON of each of the spans, which are joined by commas, and what the index needs of it.

    Raises ValueError if one is not a span.
    """
    try:
        # Most spans begin with their trace id. If each piece is an object, the pieces are the spans.
        pieces = spans.split(_NEXT)
        pieces[1:] = [_FIRST + piece for piece in pieces[1:]]
        return [(piece, _decode(piece)) for piece in pieces]
    except msgspec.MsgspecError:
        return [(span, _read(span)) for span in take_apart(spans)]


def _read(body: bytes) -> IndexedSpan:
    """Read one span, whose values may have types that only Zipkin's reader accepts."""
    try:
        return _decode(body)
    except msgspec.MsgspecError:
        return _decode(msgspec.json.encode(read_span(body)))
