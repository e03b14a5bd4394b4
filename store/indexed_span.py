"""Decodes only what the index needs of a span, and keeps its JSON as it came."""

from __future__ import annotations

import msgspec

_NO_TAGS = msgspec.Raw(b"{}")
_FIRST = b'{"traceId":'
_BETWEEN = b"}," + _FIRST


class _Endpoint(msgspec.Struct, gc=False, rename="camel"):
    service_name: str | None = None


class _Annotation(msgspec.Struct, gc=False):
    value: str


class IndexedSpan(msgspec.Struct, gc=False, rename="camel"):
    """What the index needs of a span, not in normal form. `tags` is their JSON."""

    trace_id: str
    name: str | None = None
    timestamp: int | None = None
    duration: int | None = None
    local_endpoint: _Endpoint | None = None
    remote_endpoint: _Endpoint | None = None
    annotations: list[_Annotation] | None = None
    tags: msgspec.Raw = _NO_TAGS

    @property
    def service(self) -> str:
        """The name of the service that recorded the span, "" if there is none."""
        return (self.local_endpoint.service_name or "") if self.local_endpoint else ""


_decode = msgspec.json.Decoder(IndexedSpan).decode
_take_apart = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_spans(spans: bytes) -> list[tuple[bytes, IndexedSpan]]:
    """Return the JSON of each of the spans, which are joined by commas, and what the index needs of it.

    Raises ValueError if one is not a span.
    """
    try:
        # Most spans begin with their trace id. If each piece is an object, the pieces are the spans.
        pieces = spans.split(_BETWEEN)
        pieces[1:] = [_FIRST + piece for piece in pieces[1:]]
        pieces[:-1] = [piece + b"}" for piece in pieces[:-1]]
        return [(piece, _decode(piece)) for piece in pieces]
    except msgspec.MsgspecError:
        return [(bytes(span), _decode(span)) for span in _take_apart(b"[%b]" % spans)]
