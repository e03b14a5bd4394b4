"""Zipkin v2 JSON of a span, made by %-formatting of bytes: what is constant for a topic is escaped once.

A JSON encoder costs more for each span than the rest of the interceptor, and %-formatting of str twice as
much as that of bytes (RATIONALE.md).
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii

from kaspan.interceptor.tracing.extras import Extras

MAX_KEY_BYTES = 256
"""A longer key is cut off in its tag."""

# Characters that JSON does not escape: printable ASCII except the quotation mark and the backslash.
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')

Tags = Iterable[tuple[str, str]]


def quote(text: str) -> bytes:
    """Return a text as a JSON string in ASCII."""
    return encode_basestring_ascii(text).encode()


def _literal(text: str) -> bytes:
    return _places(quote(text))


def span_template(
    kind: str, service: str, remote_service: str, topic: str, tags: Tags, varying: bytes = b""
) -> bytes:
    """Return a template: the JSON of one kind of span on one topic, with %-places for what differs.

    `varying` holds the tags whose values differ, with their own %-places. The places in order: trace id, span
    id, `parent_part`, name as a JSON string, timestamp and duration in us, `annotations_part`, those of
    `varying`, more tags as `tag_part` makes them.
    """
    remote = remote_service.replace("{topic}", topic)
    endpoints = b'"localEndpoint":{"serviceName":' + _literal(service) + b"}"
    if remote:
        endpoints += b',"remoteEndpoint":{"serviceName":' + _literal(remote) + b"}"
    constant = b",".join(_literal(key) + b":" + _literal(value) for key, value in tags)
    return (
        b'{"traceId":"%b","id":"%b"%b,"kind":"' + kind.encode() + b'","name":%b,"timestamp":%d,"duration":%d,'
        b"" + endpoints + b'%b,"tags":{' + constant + varying + b"%b}}"
    )


def ordinary_template(template: bytes, parent: bytes, name: bytes, annotations: bytes, last: bytes) -> bytes:
    """Fill in what is the same for all ordinary spans, and add the tags `last`.

    The remaining places: trace id, span id, those of `parent`, timestamp and duration in us, those of
    `annotations`, those of the template's `varying` tags, those of `last`.
    """
    for place, part in (
        (b'"id":"%b"%b', b'"id":"%b"' + parent),
        (b'"name":%b', b'"name":' + _places(name)),
        (b'}%b,"tags"', b"}" + annotations + b',"tags"'),
    ):
        template = template.replace(place, part, 1)
    return template.removesuffix(b"%b}}") + last + b"}}"


def _places(literal: bytes) -> bytes:
    return literal.replace(b"%", b"%%")


def parent_part(parent_id: bytes | None, debug: bool) -> bytes:
    """Return the JSON between a span's id and its kind."""
    part = b"" if parent_id is None else b',"parentId":"' + parent_id + b'"'
    return part + b',"debug":true' if debug else part


def extras_parts(extras: Extras | None) -> tuple[bytes | None, bytes, bytes]:
    """Return what the application added, as JSON: the name or None, the annotations, the tags."""
    if extras is None:
        return None, b"", b""
    name = None if extras.name is None else quote(extras.name)
    annotations = annotations_part(extras.annotations) if extras.annotations else b""
    return name, annotations, b"".join([tag_part(key, value) for key, value in extras.tags.items()])


def tag_part(key: str, value: str) -> bytes:
    """Return a tag as JSON, with a comma before it."""
    return b"," + quote(key) + b":" + quote(value)


def error_part(error: BaseException) -> bytes:
    """Return the tags `error`, the message or else the type, and `error.type`."""
    name = type(error).__name__
    return tag_part("error", (str(error) or name)[:4096]) + tag_part("error.type", name)


def key_part(key: object) -> bytes:
    """Return the tag of a record's key if it is readable: printable str, or bytes of printable UTF-8."""
    if key is None:
        return b""
    if type(key) is bytes and len(key) <= MAX_KEY_BYTES and not key.translate(None, _PLAIN):
        return b',"kafka.key":"' + key + b'"' if key else b""
    if isinstance(key, bytes):
        try:
            # Not final: leaves out a character that the limit cuts in two.
            key, _ = utf_8_decode(key[:MAX_KEY_BYTES], "strict", len(key) <= MAX_KEY_BYTES)
        except UnicodeDecodeError:
            return b""
    # isinstance first: a key may be any object, and the truth value of some raises.
    if not isinstance(key, str) or not key or not key.isprintable():
        return b""
    return tag_part("kafka.key", key[:MAX_KEY_BYTES])


def annotations_part(annotations: Iterable[tuple[int, str]]) -> bytes:
    """Return annotations as JSON: pairs of timestamp in us and text."""
    listed = b",".join(b'{"timestamp":%d,"value":%b}' % (at_us, quote(value)) for at_us, value in annotations)
    return b',"annotations":[' + listed + b"]"
