"""Decodes Zipkin's proto3 list of spans to JSON v2, the format of the spool, with all its fields.

Without a protobuf library: Zipkin's own reader decides what it accepts and refuses, such as text that is not
UTF-8, lengths that overrun, ids of any length. One difference is intended: after an unknown field Zipkin can
lose the spans that follow; here only the field is skipped.

Source: zipkin.proto of zipkin-api, Proto3ZipkinFields and ReadBuffer of Zipkin 3.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.codec.json_lenient import LENIENT_BYTES, MAX_VALUES, InvalidSpansError
from kaspan.agent.codec.protobuf import (
    InvalidProtoError,
    fixed64,
    message,
    signed,
    skip,
    take,
    text,
    truth,
    varint,
    varint64,
)

_KINDS = ("", "CLIENT", "SERVER", "PRODUCER", "CONSUMER")
_FIELD_VALUES = 3  # an annotation is three JSON values: itself, its time and its text
_MAX_ID_BYTES = 32  # the limit of Zipkin's reader; the length of an id is checked after that
_encode = msgspec.json.encode
Fields = dict[str, Any]


def proto3_batches(body: bytes, row_bytes: int, max_bytes: int = 1 << 62) -> Iterator[Batch]:
    """Check a body and yield its spans as JSON v2, in batches of about `row_bytes`, `max_bytes` in all.

    A body without spans yields nothing. Raises InvalidSpansError where Zipkin would refuse the body; then the
    batches before that must not be used either.
    """
    if not body:
        return
    if body[0] not in (11, 12, ord("[")) and not (body[0] == 10 and body[1:2] not in (b"", b"\0")):
        raise InvalidSpansError("Expected a PROTO3 encoded list")
    row: list[bytes] = []
    size = position = count = total = 0
    while position < len(body):
        try:
            _, position = varint(body, position)
            length, position = varint(body, position)
            if not length:
                break  # Zipkin stops at an empty span
            if length > len(body) - position:
                raise InvalidProtoError(
                    f"Truncated: length {length} > bytes available {len(body) - position}"
                )
            if length > LENIENT_BYTES:
                _check_number_of_fields(body, position, position + length, count)
            fields, position = _span(body, position, position + length)
        except (InvalidProtoError, IndexError) as error:
            reason = str(error) if isinstance(error, InvalidProtoError) else "Truncated"
            raise InvalidSpansError(f"{reason} reading List<Span> from proto3 at span {count}") from error
        span = _encode(fields)
        total += len(span) + len(SEPARATOR)
        if total > max_bytes:
            raise InvalidSpansError(
                f"A body may have at most {max_bytes} bytes (agent.max_body_bytes) as JSON", 413
            )
        if row and size + len(span) > row_bytes:
            yield Batch(len(row), SEPARATOR.join(row))
            row, size = [], 0
        row.append(span)
        size += len(span) + len(SEPARATOR)
        count += 1
    if row:
        yield Batch(len(row), SEPARATOR.join(row))


def _check_number_of_fields(data: bytes, position: int, end: int, span: int) -> None:
    """Refuse a large span with very many fields: in memory it would take twenty times its size."""
    for _ in range(MAX_VALUES // _FIELD_VALUES):
        key, position = varint(data, position)
        position = skip(data, position, key)
        if position >= end:
            return
    limit = f"A span may have at most {MAX_VALUES // _FIELD_VALUES} fields"
    raise InvalidSpansError(f"{limit}: too many reading List<Span> from proto3 at span {span}", 413)


def _hex(data: bytes, position: int, name: str, max_length: int) -> tuple[str, int]:
    raw, position = take(data, position)
    if len(raw) > _MAX_ID_BYTES:
        raise InvalidProtoError(f"hex field greater than 32 chars long: {len(raw)}")
    if len(raw) * 2 > max_length:
        raise InvalidProtoError(f"{name}.length > {max_length}")
    return raw.hex(), position


def _span(data: bytes, position: int, end: int) -> tuple[Fields, int]:
    """Read one span; return its fields by their JSON names, and where the next span begins."""
    span: Fields = {}
    while position < end:
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = varint(data, position - 1)
        read = _SPAN.get(key)
        position = read(data, position, span) if read else skip(data, position, key)
    missing = [name for name in ("traceId", "id") if name not in span]
    if missing:
        raise InvalidProtoError(f"Missing : {' '.join(missing)}")
    return span, position


def _read_trace_id(data: bytes, position: int, span: Fields) -> int:
    value, position = _hex(data, position, "traceId", 32)
    if not value.strip("0"):
        raise InvalidProtoError("traceId is all zeros" if value else "traceId is empty")
    span["traceId"] = value
    return position


def _read_id(data: bytes, position: int, span: Fields) -> int:
    value, position = _hex(data, position, "id", 16)
    if value in ("", "0" * 16):
        raise InvalidProtoError("id is all zeros" if value else "id is empty")
    span["id"] = value
    return position


def _read_parent_id(data: bytes, position: int, span: Fields) -> int:
    value, position = _hex(data, position, "parentId", 16)
    _set(span, "parentId", value)
    return position


def _set(fields: Fields, name: str, value: Any) -> None:
    """Set a field; an empty value removes an earlier one."""
    if value:
        fields[name] = value
    else:
        fields.pop(name, None)


def _read_kind(data: bytes, position: int, span: Fields) -> int:
    kind, position = varint(data, position)
    if kind >= 1 << 31:
        raise InvalidProtoError(f"No kind {kind}")
    if 0 < kind < len(_KINDS):
        span["kind"] = _KINDS[kind]
    return position


def _read_name(data: bytes, position: int, span: Fields) -> int:
    value, position = text(data, position)
    _set(span, "name", value)
    return position


def _read_timestamp(data: bytes, position: int, span: Fields) -> int:
    value, position = fixed64(data, position)
    _set(span, "timestamp", max(value, 0))
    return position


def _read_duration(data: bytes, position: int, span: Fields) -> int:
    value, position = varint64(data, position)
    _set(span, "duration", max(value, 0))
    return position


def _reads_endpoint(name: str) -> Callable[[bytes, int, Fields], int]:
    def read(data: bytes, position: int, span: Fields) -> int:
        position, end = message(data, position)
        endpoint: Fields = {}
        while position < end:
            key, position = varint(data, position)
            if key == 10:
                value, position = text(data, position)
                _set(endpoint, "serviceName", value)
            elif key in (18, 26):
                raw, position = take(data, position)
                endpoint.update(_address(raw))
            elif key == 32:
                port, position = varint(data, position)
                port = signed(port, 32)
                if port > 0xFFFF:
                    raise InvalidProtoError(f"invalid port {port}")
                _set(endpoint, "port", max(port, 0))
            else:
                position = skip(data, position, key)
        _set(span, name, endpoint)
        return position

    return read


def _address(raw: bytes) -> Fields:
    """Return an address by its field's name. As for Zipkin, the length decides; others are dropped."""
    if len(raw) == 4:
        return {"ipv4": socket.inet_ntop(socket.AF_INET, raw)}
    if len(raw) != 16:
        return {}
    # The last four bytes are an IPv4 address, except for ::1.
    if raw[:12] == bytes(12) and raw[12:] != b"\0\0\0\1":
        return {"ipv4": socket.inet_ntop(socket.AF_INET, raw[12:])}
    text = socket.inet_ntop(socket.AF_INET6, raw)
    if "." in text:  # ::ffff:1.2.3.4: from JSON Zipkin would read it as IPv4
        text = f"::ffff:{raw[12:14].hex()}:{raw[14:].hex()}"
    return {"ipv6": text}


def _read_annotation(data: bytes, position: int, span: Fields) -> int:
    position, end = message(data, position)
    timestamp, value = 0, ""
    while position < end:
        key, position = varint(data, position)
        if key == 9:
            timestamp, position = fixed64(data, position)
        elif key == 18:
            value, position = text(data, position)
        else:
            position = skip(data, position, key)
    if timestamp and value:
        span.setdefault("annotations", []).append({"timestamp": timestamp, "value": value})
    return position


def _read_tag(data: bytes, position: int, span: Fields) -> int:
    position, end = message(data, position)
    name, value = "", ""
    while position < end:
        key = data[position]
        position += 1
        if key >= 0x80:
            key, position = varint(data, position - 1)
        if key == 10:
            name, position = text(data, position)
        elif key == 18:
            # Zipkin ignores an empty text: it does not replace an earlier one.
            said, position = text(data, position)
            value = said or value
        else:
            position = skip(data, position, key)
    if name:
        span.setdefault("tags", {})[name] = value
    return position


def _reads_truth(name: str) -> Callable[[bytes, int, Fields], int]:
    def read(data: bytes, position: int, span: Fields) -> int:
        value, position = truth(data, position)
        if value:
            span[name] = True
        return position

    return read


# By field number and wire type: number << 3 | type.
_SPAN: dict[int, Callable[[bytes, int, Fields], int]] = {
    10: _read_trace_id,
    18: _read_parent_id,
    26: _read_id,
    32: _read_kind,
    42: _read_name,
    49: _read_timestamp,
    56: _read_duration,
    66: _reads_endpoint("localEndpoint"),
    74: _reads_endpoint("remoteEndpoint"),
    82: _read_annotation,
    90: _read_tag,
    96: _reads_truth("debug"),
    104: _reads_truth("shared"),
}
