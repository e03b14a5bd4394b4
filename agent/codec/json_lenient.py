"""Reads a JSON list of spans as Zipkin does, key by key, and names what is wrong with it.

It is slow, and used only for bodies that `json_strict` does not accept. Zipkin's parser accepts more than
JSON: a text in place of a number, and the other way round; control characters in strings; bytes that are not
UTF-8; halves of surrogate pairs; anything after the list.

Source: V2SpanReader, Span.Builder and Endpoint.Builder of Zipkin 3, and JsonReader of Gson 2.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import msgspec

from kaspan.config.errors import shorten

MAX_NESTING = 255
"""How deep lists and objects may be nested, the list of spans included."""
LENIENT_BYTES = 1024 * 1024
"""A larger list must be strictly valid JSON with values of the right types. Reading it as Zipkin does takes
up to a hundred times its size in memory."""
MAX_VALUES = 500_000
"""How many values a single span may have; each takes about a hundred bytes of memory."""
_KINDS = ("CLIENT", "SERVER", "PRODUCER", "CONSUMER")
_MAX_PORT = 0xFFFF
_LONG, _INT = 2**63, 2**31
_integer = re.compile(r"[+-]?[0-9]{1,40}").fullmatch
# What Java accepts as a double, except hexadecimal ones.
_double = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[fFdD]?").fullmatch
_hex = re.compile(r"[0-9a-f]*").fullmatch
_half_a_pair = re.compile("[\ud800-\udfff]")


class InvalidSpansError(Exception):
    """A body is refused: `status` is the HTTP status of the answer, the message is for the client."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class _Object(list[tuple[str, Any]]):
    """A JSON object as it was written: keys may be repeated."""


class _Number(str):
    """A JSON number as it was written."""

    __slots__ = ()


class _Invalid(Exception):
    """A value is wrong; callers add its place to `path`."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.path = path


def _refuse_constant(text: str) -> NoReturn:
    raise _Invalid(f"{text} is not a number of JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_Object,
    parse_int=_Number,
    parse_float=_Number,
    parse_constant=_refuse_constant,
    strict=False,
)


def read_list(body: bytes, first: int = 0) -> list[Any]:
    """Check and return all spans; `strict` makes valid JSON of them.

    `first` is the index of the first span in the client's whole body. Raises InvalidSpansError where Zipkin
    would refuse the list.
    """
    try:
        spans, _ = _DECODER.raw_decode(body.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        raise InvalidSpansError(f"Malformed reading List<Span> from json: {error}") from error
    except (_Invalid, RecursionError) as error:
        raise InvalidSpansError(f"Malformed reading List<Span> from json: {error}") from error
    _check_nesting(spans)
    for index, span in enumerate(spans):
        try:
            _check_span(span)
        except _Invalid as invalid:
            place = f"$[{first + index}]{invalid.path}"
            raise InvalidSpansError(f"{invalid} reading List<Span> from json at {place}") from invalid
    return list(spans)


def _check_nesting(spans: list[Any]) -> None:
    level, depth = [spans], 0
    while level:
        depth += 1
        if depth > MAX_NESTING:
            raise too_deep()
        level = [item for container in level for item in _contents(container) if isinstance(item, list)]


def _contents(container: list[Any]) -> Iterable[Any]:
    return (value for _, value in container) if isinstance(container, _Object) else container


def too_deep() -> InvalidSpansError:
    """Return the error for JSON that is nested too deeply."""
    return InvalidSpansError(f"Malformed reading List<Span> from json: Nesting limit {MAX_NESTING} reached")


def _check_span(span: Any) -> None:
    seen = set()
    for key, value in _members(span):
        check = _SPAN.get(key)
        if check is None or (value is None and key not in _REQUIRED):
            continue
        _at(f".{key}", check, value)
        seen.add(key)
    missing = [key for key in _REQUIRED if key not in seen]
    if missing:
        raise _Invalid(f"Missing : {' '.join(missing)}")


def _at(path: str, check: Callable[[Any], object], value: Any) -> None:
    try:
        check(value)
    except _Invalid as invalid:
        raise _Invalid(str(invalid), path + invalid.path) from None


def _members(value: Any) -> _Object:
    return value if isinstance(value, _Object) else _refuse("an object", value)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else _refuse("a string", value)


def _boolean(value: Any) -> bool:
    return value if isinstance(value, bool) else _refuse("a boolean", value)


def _long(value: Any) -> int:
    return _whole(value, "a long", _LONG)


def _whole(value: Any, wanted: str, limit: int) -> int:
    """Read a number, or a text with one, as an integer below `limit`; a double must be a whole number."""
    if not isinstance(value, str):
        _refuse(wanted, value)
    if _integer(value) and -limit <= int(value) < limit:
        return int(value)
    # Java strips characters up to U+0020 around a double.
    found = _double(value.strip("".join(map(chr, range(33)))))
    if found:
        number = float(found[1])
        # A cast in Java is clamped to the type's limits, and the long 2**63 - 1 becomes the double 2**63.
        if math.isfinite(number):
            cast = max(-limit, min(int(number), limit - 1))
            if float(cast) == number:
                return cast
    raise _Invalid(f"Expected {wanted} but was {shorten(value)}")


def _refuse(wanted: str, value: Any) -> NoReturn:
    kinds = {bool: "BOOLEAN", _Object: "BEGIN_OBJECT", list: "BEGIN_ARRAY", _Number: "NUMBER", str: "STRING"}
    raise _Invalid(f"Expected {wanted} but was {kinds.get(type(value), 'NULL')}")


def _id(name: str, max_length: int) -> Callable[[Any], str]:
    """Return the check of an id: 1 to `max_length` lower-case hexadecimal digits."""

    def check(value: Any) -> str:
        text = _string(value)
        if not text:
            raise _Invalid(f"{name} is empty")
        if len(text) > max_length:
            raise _Invalid(f"{name}.length > {max_length}")
        if not _hex(text):
            raise _Invalid(f"{shorten(text)} should be lower-hex encoded with no prefix")
        return text

    return check


_trace_id, _span_id, _parent_id = _id("traceId", 32), _id("id", 16), _id("parentId", 16)


def _check_trace_id(value: Any) -> None:
    if not _trace_id(value).strip("0"):
        raise _Invalid("traceId is all zeros")


def _check_id(value: Any) -> None:
    # As Zipkin does, fewer than 16 zeros are accepted.
    if _span_id(value) == "0" * 16:
        raise _Invalid("id is all zeros")


def _check_kind(value: Any) -> None:
    if _string(value) not in _KINDS:
        raise _Invalid(f"No kind {shorten(value)}; the kinds are {', '.join(_KINDS)}")


def _check_port(value: Any) -> None:
    port = _whole(value, "an int", _INT)
    if port > _MAX_PORT:
        raise _Invalid(f"invalid port {port}")


def _check_endpoint(value: Any) -> None:
    for key, item in _members(value):
        if item is not None and key in _ENDPOINT:
            _at(f".{key}", _ENDPOINT[key], item)


def _check_annotations(value: Any) -> None:
    if type(value) is not list:
        _refuse("an array", value)
    for index, annotation in enumerate(value):
        _at(f"[{index}]", _check_annotation, annotation)


def _check_annotation(value: Any) -> None:
    checks = {"timestamp": _long, "value": _string}
    for key, item in _members(value):
        if key in checks:
            _at(f".{key}", checks[key], item)
    if not checks.keys() <= {key for key, _ in value}:
        raise _Invalid("Incomplete annotation")


def _check_tags(value: Any) -> None:
    for key, item in _members(value):
        if item is None:
            raise _Invalid("No value", f".{shorten(key)}")
        _at(f".{shorten(key)}", _string, item)


_REQUIRED = ("traceId", "id")
_SPAN: dict[str, Callable[[Any], object]] = {
    "traceId": _check_trace_id,
    "id": _check_id,
    "parentId": _parent_id,
    "kind": _check_kind,
    "name": _string,
    "timestamp": _long,
    "duration": _long,
    "localEndpoint": _check_endpoint,
    "remoteEndpoint": _check_endpoint,
    "annotations": _check_annotations,
    "tags": _check_tags,
    "debug": _boolean,
    "shared": _boolean,
}
_ENDPOINT: dict[str, Callable[[Any], object]] = {
    "serviceName": _string,
    "ipv4": _string,
    "ipv6": _string,
    "port": _check_port,
}


def strict(value: Any) -> Any:
    """Return a value that was read in a form that msgspec encodes as the same JSON."""
    if isinstance(value, _Object):
        return {_text(key): strict(item) for key, item in value}
    if isinstance(value, list):
        return [strict(item) for item in value]
    if isinstance(value, _Number):
        return msgspec.Raw(str(value))
    return _text(value) if isinstance(value, str) else value


def _text(text: str) -> str:
    """Replace half a surrogate pair by ?, as Java does: UTF-8 cannot encode it."""
    return _half_a_pair.sub("?", text)
