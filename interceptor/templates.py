"""Zipkin v2 JSON of a span by %-formatting: all that is constant for a topic is escaped once.

An encoder run for every span costs more than the rest of the interceptor together (bench/).
"""

from __future__ import annotations

from collections.abc import Iterable
from json.encoder import encode_basestring_ascii as quote

MAX_KEY_CHARACTERS = 256
"""A longer key is cut off in its tag."""

Tags = Iterable[tuple[str, str]]


def _literal(text: str) -> str:
    return quote(text).replace("%", "%%")


def _endpoints(service: str, remote_service: str, topic: str) -> str:
    local = f'"localEndpoint":{{"serviceName":{_literal(service)}}}'
    remote = remote_service.replace("{topic}", topic)
    return local if not remote else f'{local},"remoteEndpoint":{{"serviceName":{_literal(remote)}}}'


def _tags(tags: Tags) -> str:
    return ",".join(f"{_literal(key)}:{_literal(value)}" for key, value in tags)


class SpanTemplate:
    """The JSON of one kind of span on one topic.

    `fields` is filled with (trace id, span id, middle part, name in JSON, timestamp in us, duration in us,
    part after the endpoints, further tags); the parts are made by the functions below.
    """

    __slots__ = ("fields", "name")

    def __init__(
        self, kind: str, name: str, service: str, remote_service: str, topic: str, tags: Tags
    ) -> None:
        self.name = quote(name)
        self.fields = (
            f'{{"traceId":"%s","id":"%s"%s,"kind":"{kind}","name":%s,"timestamp":%d,"duration":%d,'
            f'{_endpoints(service, remote_service, topic)}%s,"tags":{{{_tags(tags)}%s}}}}'
        )


def parent_part(parent_id: str | None, debug: bool) -> str:
    """What stands between a span's id and its kind."""
    part = "" if parent_id is None else f',"parentId":"{parent_id}"'
    return f'{part},"debug":true' if debug else part


def tag_part(key: str, value: str) -> str:
    """One more tag after those of the template."""
    return f",{quote(key)}:{quote(value)}"


def error_part(error: BaseException) -> str:
    """The tags of a failure: the message, or the type where there is none, and the type."""
    name = type(error).__name__
    return f',"error":{quote((str(error) or name)[:4096])},"error.type":{quote(name)}'


def key_part(key: object) -> str:
    """The tag of a record's key, if it is text that a person can read: str, or bytes of printable UTF-8."""
    if type(key) is bytes:
        try:
            key = key[: 4 * MAX_KEY_CHARACTERS].decode()
        except UnicodeDecodeError:
            return ""
    if not isinstance(key, str) or not key or not key.isprintable():
        return ""
    return f',"kafka.key":{quote(key[:MAX_KEY_CHARACTERS])}'


def annotations_part(annotations: Iterable[tuple[int, str]]) -> str:
    """The annotations: pairs of timestamp in us and text."""
    listed = ",".join(f'{{"timestamp":{at_us},"value":{quote(value)}}}' for at_us, value in annotations)
    return f',"annotations":[{listed}]'
