"""Protocol Buffers' wire format as Zipkin's reader takes it.

Each function reads something at a position of `data`, and gives it and the position behind it. All raise
IndexError or InvalidProtoError where the data ends too soon.

Source: ReadBuffer and Proto3Fields of Zipkin 3.
"""

from __future__ import annotations

from struct import Struct

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_signed64 = Struct("<q").unpack_from


class InvalidProtoError(Exception):
    """These bytes are no message of this kind; the message says why in Zipkin's words where it has some."""


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
        # Zipkin's own bound: the tenth byte may hold four bits, although 64 bits have room for one.
        if shift == 63 and byte > 0x0F:
            raise InvalidProtoError(f"Greater than 64-bit varint at position {position - 1}")
        value |= (byte & 0x7F) << shift
        if byte < 0x80 or shift == 63:
            return signed(value, 64), position
        shift += 7


def signed(value: int, bits: int) -> int:
    """Read a number's lowest bits as two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def message(data: bytes, position: int) -> tuple[int, int]:
    """Read the length of a message inside another: where it begins and ends.

    Its end may be beyond that of the data, which is found out by reading on; Zipkin takes a length of 31 bits
    and more for a negative one, and so for an empty message.
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
    if length >= 0x80:  # most are short, and a call costs as much as all the rest of this
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
    """Read a boolean, which is one byte, 0 or 1."""
    byte = data[position]
    if byte > 1:
        raise InvalidProtoError(f"Malformed: invalid boolean value at byte {position + 1}")
    return byte == 1, position + 1


def skip(data: bytes, position: int, key: int) -> int:
    """Go over a field of a key that is not known, by its wire type; only the position comes back."""
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
