"""Reads Protocol Buffers' wire format as Zipkin does.

Each function reads a value at a position of `data`, and returns it and the position after it. All raise
IndexError or InvalidProtoError if the data is truncated.

Source: ReadBuffer and Proto3Fields of Zipkin 3.
"""

from __future__ import annotations

from struct import Struct

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_signed64 = Struct("<q").unpack_from


class InvalidProtoError(Exception):
    """The bytes are not a valid message; the text says why, in Zipkin's words if Zipkin has them."""


def varint(data: bytes, position: int) -> tuple[int, int]:
    """Read an unsigned number of at most 32 bits."""
    byte = data[position]
    position += 1
    if byte < 0x80:
        return byte, position
    value, shift = byte & 0x7F, 7
    while True:
        byte = data[position]
        position += 1
        if shift == 28:
            if byte > 0x0F:
                raise InvalidProtoError(f"Greater than 32-bit varint at position {position - 1}")
            return value | byte << 28, position
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def varint64(data: bytes, position: int) -> tuple[int, int]:
    """Read a signed number of 64 bits."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        # Zipkin's own limit: it allows four bits in the tenth byte, although 64 bits leave only one.
        if shift == 63 and byte > 0x0F:
            raise InvalidProtoError(f"Greater than 64-bit varint at position {position - 1}")
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift == 63:
            return signed(value, 64), position
        shift += 7


def signed(value: int, bits: int) -> int:
    """Interpret the lowest bits of a number as two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def message(data: bytes, position: int) -> tuple[int, int]:
    """Read the length of an embedded message; return where it begins and ends.

    Its end may be beyond the data; reading its fields finds that out. As for Zipkin, a length above 31 bits
    is negative, and so the message is empty.
    """
    length = data[position]
    position += 1
    if length >= 0x80:
        length, position = varint(data, position - 1)
        length = signed(length, 32)
    return position, position + length


def take(data: bytes, position: int) -> tuple[bytes, int]:
    """Read a field of bytes."""
    length = data[position]
    position += 1
    if length >= 0x80:  # most lengths are short, and a call costs as much as the rest of this function
        length, position = varint(data, position - 1)
    end = position + length
    if end > len(data):
        raise InvalidProtoError(f"Truncated: length {length} > bytes available {len(data) - position}")
    return data[position:end], end


def text(data: bytes, position: int) -> tuple[str, int]:
    """Read a field of text; what is not UTF-8 becomes U+FFFD."""
    raw, position = take(data, position)
    return str(raw, "utf-8", "replace"), position


def fixed64(data: bytes, position: int) -> tuple[int, int]:
    """Read a signed number of eight bytes."""
    end = position + 8
    if end > len(data):
        raise InvalidProtoError(f"Truncated: length 8 > bytes available {len(data) - position}")
    return _signed64(data, position)[0], end


def truth(data: bytes, position: int) -> tuple[bool, int]:
    """Read a boolean: one byte, 0 or 1."""
    byte = data[position]
    if byte > 1:
        raise InvalidProtoError(f"Malformed: invalid boolean value at byte {position + 1}")
    return byte == 1, position + 1


def skip(data: bytes, position: int, key: int) -> int:
    """Skip a field with an unknown key, by its wire type; return only the position after it."""
    kind = key & 7
    if kind == _VARINT:
        while data[position] >= 0x80:
            position += 1
        return position + 1
    if kind == _BYTES:
        return take(data, position)[1]
    if kind not in _FIXED_SIZES:
        raise InvalidProtoError(f"Malformed: invalid wireType {kind} at byte {position}")
    if position + _FIXED_SIZES[kind] > len(data):
        raise InvalidProtoError("Truncated")
    return position + _FIXED_SIZES[kind]
