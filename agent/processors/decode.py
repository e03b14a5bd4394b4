"""Decodes one span from JSON, as leniently as Zipkin does."""

from __future__ import annotations

import msgspec

from kaspan.wire.span import Span

# Not strict: numbers in quotes are numbers, as they are for Zipkin.
_decode = msgspec.json.Decoder(Span, strict=False).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOT_A_SPAN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NUMBER_STARTS = b"-0123456789"


def decode(payload: bytes) -> Span:
    """Decode a span, without fields that Zipkin does not know. Raises ValueError, which quotes nothing."""
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
    """Rewrite a span to fit its schema: without nulls, and with text in place of numbers in tags.

    Source: V2SpanReader of Zipkin 3, which skips nulls and, through Gson, reads numbers as text.
    """
    fields = {name: value for name, value in _fields(payload).items() if bytes(value) != b"null"}
    if "tags" in fields:
        tags = {name: _text(value) for name, value in _fields(fields["tags"]).items()}
        fields["tags"] = msgspec.Raw(msgspec.json.encode(tags))
    return msgspec.json.encode(fields)


def _text(value: msgspec.Raw) -> msgspec.Raw:
    written = bytes(value)
    return msgspec.Raw(b'"' + written + b'"') if written[0] in _NUMBER_STARTS else value
