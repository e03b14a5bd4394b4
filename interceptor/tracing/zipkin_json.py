"""Zipkin v2 JSON of a span by %-formatting of bytes: all that is constant for a topic is escaped once.

An encoder run for every span costs more than the rest of the interceptor together, and formatting str
instead of bytes twice as much (RATIONALE.md).
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii

from kaspan.interceptor.tracing.extras import Extras

MAX_KEY_BYTES = 256
"""A longer key is cut off in its tag."""

# What may stand in JSON as it is: printable ASCII but the quotation mark and the backslash.
_PLAIN = bytes(byte for byte in range(0x20, 0x7F) if byte not in b'"\\')

Tags = Iterable[tuple[str, str]]


def quote(text: str) -> bytes:
    """Make a JSON string in ASCII."""
    return encode_basestring_ascii(text).encode()


def _literal(text: str) -> bytes:
    return _places(quote(text))


def span_template(
    kind: str, service: str, remote_service: str, topic: str, tags: Tags, varying: bytes = b""
) -> bytes:
    """Make the JSON of one kind of span on one topic, with places for what differs from span to span.

    `varying` are the tags that every span has with a value of its own, with a %-place each. The places, in
    order: trace id, span id, `parent_part`, name as a JSON string, timestamp and duration in us,
    `annotations_part`, those of `varying`, further tags as `tag_part` makes them.
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
    """Fill in what is the same for all ordinary spans, and end the tags with `last`.

    The places that are left: trace id, span id, those of `parent`, timestamp and duration in us, those of
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
    """What stands between a span's id and its kind."""
    part = b"" if parent_id is None else b',"parentId":"' + parent_id + b'"'
    return part + b',"debug":true' if debug else part


def extras_parts(extras: Extras | None) -> tuple[bytes | None, bytes, bytes]:
    """What the application added: the name in JSON if it gave another one, the annotations, the tags."""
    if extras is None:
        return None, b"", b""
    name = None if extras.name is None else quote(extras.name)
    annotations = annotations_part(extras.annotations) if extras.annotations else b""
    return name, annotations, b"".join([tag_part(key, value) for key, value in extras.tags.items()])


def tag_part(key: str, value: str) -> bytes:
    """One more tag after those of the template."""
    return b"," + quote(key) + b":" + quote(value)


def error_part(error: BaseException) -> bytes:
    """The tags of a failure: the message, or the type where there is none, and the type."""
    name = type(error).__name__
    return tag_part("error", (str(error) or name)[:4096]) + tag_part("error.type", name)


def key_part(key: object) -> bytes:
    """The tag of a record's key, if it is text that a person can read: str, or bytes of printable UTF-8."""
    if key is None:
        return b""
    if type(key) is bytes and len(key) <= MAX_KEY_BYTES and not key.translate(None, _PLAIN):
        return b',"kafka.key":"' + key + b'"' if key else b""
    if isinstance(key, bytes):
        try:
            # A character that the limit cuts in two is left out.
            key, _ = utf_8_decode(key[:MAX_KEY_BYTES], "strict", len(key) <= MAX_KEY_BYTES)
        except UnicodeDecodeError:
            return b""
    # A key may be any object, and some raise when asked whether they are true.
    if not isinstance(key, str) or not key or not key.isprintable():
        return b""
    return tag_part("kafka.key", key[:MAX_KEY_BYTES])


def annotations_part(annotations: Iterable[tuple[int, str]]) -> bytes:
    """The annotations: pairs of timestamp in us and text."""
    listed = b",".join(b'{"timestamp":%d,"value":%b}' % (at_us, quote(value)) for at_us, value in annotations)
    return b',"annotations":[' + listed + b"]"
