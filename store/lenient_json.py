"""Reads one JSON span as Zipkin's reader does, key by key: slowly, for the few that msgspec refuses.

Zipkin takes a text for a number and a number for a text, skips what is null, and reads repeated keys one
after the other. The span was accepted before, so this does not check it.

Source: V2SpanReader of Zipkin 3, and JsonReader of Gson 2.
"""

from __future__ import annotations

import json
from typing import Any

from kaspan.store.ip_address import read_ip
from kaspan.wire.span import Annotation, Endpoint, Span

_MIN_LONG, _MAX_LONG = -(2**63), 2**63 - 1
_JAVA_BLANKS = "".join(map(chr, range(33)))
_TEXTS = {"traceId": "trace_id", "id": "id", "parentId": "parent_id", "kind": "kind", "name": "name"}
_NUMBERS = {"timestamp": "timestamp", "duration": "duration"}
_ENDPOINTS = {"localEndpoint": "local_endpoint", "remoteEndpoint": "remote_endpoint"}


class _Object(list[tuple[str, Any]]):
    """A JSON object as it was written: keys may be repeated."""


_decode = json.JSONDecoder(object_pairs_hook=_Object, parse_int=str, parse_float=str, strict=False).decode


def read_span(span: bytes) -> Span:
    """Read one span, not yet in normal form. Raises ValueError if it has values that Zipkin refuses."""
    found = Span("", "")
    try:
        for key, value in _decode(span.decode()):
            if value is not None:
                _set(found, key, value)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as error:
        raise ValueError(f"not a span: {error}") from error
    if not found.trace_id or not found.id:
        raise ValueError("a span without traceId or id")
    return found


def _set(span: Span, key: str, value: Any) -> None:
    if key in _TEXTS:
        setattr(span, _TEXTS[key], value)
    elif key in _NUMBERS:
        setattr(span, _NUMBERS[key], _long(value))
    elif key in _ENDPOINTS:
        setattr(span, _ENDPOINTS[key], _endpoint(value))
    elif key == "annotations":
        span.annotations = span.annotations + [_annotation(dict(item)) for item in value]
    elif key == "tags":
        span.tags = span.tags | dict(value)
    elif key in ("debug", "shared") and value is True:
        setattr(span, key, True)


def _endpoint(members: _Object) -> Endpoint:
    found = Endpoint()
    for key, value in members:
        if value is None:
            continue
        if key == "serviceName":
            found.service_name = value
        elif key in ("ipv4", "ipv6"):
            ipv4, ipv6 = read_ip(value)
            found.ipv4 = ipv4 or found.ipv4
            found.ipv6 = ipv6 or found.ipv6
        elif key == "port":
            found.port = _long(value)
    return found


def _annotation(members: dict[str, Any]) -> Annotation:
    return Annotation(_long(members["timestamp"]), members["value"])


def _long(value: str) -> int:
    """Read a number, or a text with one, as Java's long: a double is cast, within the limits of the type."""
    try:
        return int(value)
    except ValueError:
        number = float(value.strip(_JAVA_BLANKS).rstrip("fFdD"))
        return max(_MIN_LONG, min(int(number), _MAX_LONG))
