"""Reads one span as JSON, as far as Zipkin would."""

from __future__ import annotations

import msgspec

from kaspan.wire.span import Span

# Not strict: numbers in quotes are numbers, as they are for Zipkin.
_decode = msgspec.json.Decoder(Span, strict=False).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOT_A_SPAN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NUMBER_STARTS = b"-0123456789"


def decode(payload: bytes) -> Span:
    """Read a span; what Zipkin knows no meaning of is not in it. Raises ValueError, which quotes nothing."""
    try:
        return _decode(payload)
    except msgspec.ValidationError:
        pass
    except _NOT_A_SPAN as error:
        raise ValueError("is not JSON") from error
    try:
        return _decode(_plain(payload))
    except _NOT_A_SPAN as error:
        raise ValueError("is not a span") from error


def _plain(payload: bytes) -> bytes:
    """Write a span as its schema wants it: without nulls, and with text for tags that are numbers.

    Source: V2SpanReader of Zipkin 3, which skips the one and, reading by Gson, does not see the other.
    """
    fields = {name: value for name, value in _fields(payload).items() if bytes(value) != b"null"}
    if "tags" in fields:
        tags = {name: _text(value) for name, value in _fields(fields["tags"]).items()}
        fields["tags"] = msgspec.Raw(msgspec.json.encode(tags))
    return msgspec.json.encode(fields)


def _text(value: msgspec.Raw) -> msgspec.Raw:
    written = bytes(value)
    return msgspec.Raw(b'"' + written + b'"') if written[0] in _NUMBER_STARTS else value
