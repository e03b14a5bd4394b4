"""Spans that make Zipkin refuse all that is in one message with them, and some that only look like it."""

from __future__ import annotations


def _nested(levels: int) -> bytes:
    """Return a span that is nested so many levels deep in a list of spans."""
    inside = levels - 2
    return b'{"traceId":"1","id":"2","unknown":%b}' % (b"[" * inside + b"]" * inside)


POISON = {
    "id twice, the first is none": b'{"traceId":"1","id":"not hexadecimal","id":"2"}',
    "id twice, the first is zero": b'{"traceId":"1","id":"0000000000000000","id":"2"}',
    "trace id twice, the first is zero": b'{"traceId":"0","id":"2","traceId":"1"}',
    "parent id twice, the first is none": b'{"traceId":"1","parentId":"X","parentId":"3","id":"2"}',
    "id twice, the first written otherwise": b'{"traceId":"1","\\u0069d":"X","id":"2"}',
    "id twice, both written otherwise": b'{"traceId":"1","\\u0069\\u0064":"X","i\\u0064":"2"}',
    "id twice, among blanks": b'{"traceId":"1", "id" :"X", "id" : "2"}',
    "nested too deeply": _nested(256),
    "nested too deeply for anybody": _nested(5000),
    "no id": b'{"traceId":"1"}',
    "id is a list": b'{"traceId":"1","id":["2"]}',
    "tag of null": b'{"traceId":"1","id":"2","tags":{"a":null}}',
    "annotation without a value": b'{"traceId":"1","id":"2","annotations":[{"timestamp":1}]}',
    "kind in small letters": b'{"traceId":"1","id":"2","kind":"client"}',
    "end of the list": b'{"traceId":"1","id":"2"}]',
    "not closed": b'{"traceId":"1","id":"2"',
}
"""By what is wrong with them. Zipkin itself takes what ends the list, and reads nothing behind it."""
HARMLESS = (
    b'{"traceId":"1","id":"2","tags":{"id":"3","traceId":"none"}}',
    b'{"traceId":"1","id":"3","id":"4"}',
    b'{"traceId":"1","id":"5","name":"\\u0041\\u00e9"}',
    _nested(255),
)
