r"""The span ring, version 1: the layout of the file that carries spans from an application to the agent.

    header, 4096 bytes, little endian
       0  magic            8 bytes  b"KASPAN\0\1"
       8  header size      u32      4096
      12  data size        u32      bytes after the header, a multiple of 8
      16  write_pos        u64      writer's: bytes ever written
      24  read_pos         u64      agent's: bytes ever taken
      32  dropped_spans    u64      writer's: spans for which the ring was too full
      40  written_spans    u64      writer's
      48  suppressed_errors u64     writer's: failures of the interceptor, hidden from the application
      56  process          u32 length, then that many bytes of JSON: service, pid, start, versions
    4080  polled_records   u64      writer's: records that poll() has returned, 0 while the next is 0
    4088  without_length   u64      writer's: those of them whose span has no length
    data
       frames aligned to 8 bytes: u32 length, u32 crc32 of the payload, payload = one Zipkin v2 JSON span;
       length WRAP = the next frame is at the start of the data area.

The last two came later. Earlier writers leave them 0, or have JSON there if theirs is longer than
MAX_PROCESS_BYTES: then they count as 0. Earlier readers do not look at them.

Positions only grow; an index into the data area is a position modulo its size. The writer publishes
`write_pos` after the frame's bytes. On processors with weak memory ordering a reader may still see the
position before the bytes, so it reads a frame with a wrong CRC once more before it treats the ring as
damaged.

Locks (flock): a ring's process holds an exclusive lock on the file until it ends, and an agent holds one on
the directory whose rings it reads. `is_locked` asks, in any PID namespace.

Standard library only: the interceptor imports this module.
"""

from __future__ import annotations

import fcntl
import struct
from zlib import crc32

MAGIC = b"KASPAN\0\1"
HEADER_BYTES = 4096
DEFAULT_DATA_BYTES = 4 * 1024 * 1024
MIN_DATA_BYTES = 64 * 1024
MAX_DATA_BYTES = 1024 * 1024 * 1024
SUFFIX = ".ring"
"""The end of a ring's file name; an unfinished ring has another name."""

WRITE_POS = 16
READ_POS = 24
DROPPED_SPANS = 32
WRITTEN_SPANS = 40
SUPPRESSED_ERRORS = 48
PROCESS = 56
POLLED_RECORDS = 4080
WITHOUT_LENGTH = 4088
MAX_PROCESS_BYTES = POLLED_RECORDS - PROCESS - 4
_MAX_EARLIER_PROCESS_BYTES = HEADER_BYTES - PROCESS - 4

FRAME_HEADER_BYTES = 8
MAX_SPAN_BYTES = 1024 * 1024 - FRAME_HEADER_BYTES
"""The largest payload: the agent reads at most 1 MiB at a time, and treats a longer frame as damage."""
WRAP = 0xFFFFFFFF

_FIXED = struct.Struct("<8sIIQQQQQ")
_FRAME = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
unpack_polled = struct.Struct("<QQ").unpack
pack_position = struct.Struct("<Q").pack
pack_frame = _FRAME.pack
unpack_frame_from = _FRAME.unpack_from


class RingError(ValueError):
    """A file is not a span ring, or is damaged; the message says how."""


class Header:
    """The header of one ring, read once: sizes in bytes, positions in bytes ever written."""

    __slots__ = (
        "counts_polled",
        "data_bytes",
        "dropped_spans",
        "polled_records",
        "process_json",
        "read_pos",
        "suppressed_errors",
        "without_length",
        "write_pos",
        "written_spans",
    )

    def __init__(self, raw: bytes) -> None:
        if len(raw) < HEADER_BYTES:
            raise RingError(f"{len(raw)} bytes long; a ring's header alone has {HEADER_BYTES}")
        (
            magic,
            header_bytes,
            self.data_bytes,
            self.write_pos,
            self.read_pos,
            self.dropped_spans,
            self.written_spans,
            self.suppressed_errors,
        ) = _FIXED.unpack_from(raw)
        if magic != MAGIC:
            raise RingError(f"starts with {magic!r}; a version 1 ring starts with {MAGIC!r}")
        if header_bytes != HEADER_BYTES:
            raise RingError(f"has a header of {header_bytes} bytes; version 1 has {HEADER_BYTES}")
        if self.data_bytes % 8 or not MIN_DATA_BYTES <= self.data_bytes <= MAX_DATA_BYTES:
            raise RingError(
                f"has a data area of {self.data_bytes} bytes; the rule is a multiple of 8 from "
                f"{MIN_DATA_BYTES} to {MAX_DATA_BYTES}"
            )
        (length,) = _LENGTH.unpack_from(raw, PROCESS)
        self.process_json = raw[PROCESS + 4 : PROCESS + 4 + min(length, _MAX_EARLIER_PROCESS_BYTES)]
        self.polled_records = self.without_length = 0
        self.counts_polled = length <= MAX_PROCESS_BYTES
        if self.counts_polled:
            self.polled_records, self.without_length = unpack_polled(raw[POLLED_RECORDS:HEADER_BYTES])


def pack_header(data_bytes: int, process_json: bytes) -> bytes:
    """Make the header of a new, empty ring.

    `process_json` describes the process that writes (service, pid, start, versions); it is cut off at
    MAX_PROCESS_BYTES. Returns HEADER_BYTES bytes.
    """
    process_json = process_json[:MAX_PROCESS_BYTES]
    head = _FIXED.pack(MAGIC, HEADER_BYTES, data_bytes, 0, 0, 0, 0, 0)
    return (head + _LENGTH.pack(len(process_json)) + process_json).ljust(HEADER_BYTES, b"\0")


def is_locked(descriptor: int) -> bool:
    """Whether another process holds the lock: of a ring its application, of a ring directory its agent.

    Takes a shared lock for a moment, so two that ask at once get the same answer. Does not block. Raises
    OSError if it cannot be known: the file system has no locks, or the system no memory for one.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def frame_bytes(payload_bytes: int) -> int:
    """How many bytes of the data area a payload takes, with its frame header and the padding to 8 bytes."""
    return (payload_bytes + FRAME_HEADER_BYTES + 7) & ~7


def read_frames(data: bytes, start: int, data_bytes: int) -> tuple[list[bytes], int, str | None]:
    """Split a copy of a piece of the data area into payloads.

    `data` holds the bytes from position `start` on, without a gap, at most to the end of the data area: a
    piece that wraps is read by two calls. Returns the payloads, the position after the last whole frame,
    and the fault of the next frame, or None if `data` was used up. A frame of 0 bytes is a fault: memory
    that was not written yet looks like that. Never raises, with any bytes.
    """
    payloads: list[bytes] = []
    append, unpack, checksum = payloads.append, unpack_frame_from, crc32
    offset, available = 0, len(data)
    # Frames and the data area are aligned to 8 bytes, so a frame header never crosses the end of the area.
    last_header = available - FRAME_HEADER_BYTES
    while offset <= last_header:
        length, crc = unpack(data, offset)
        end = offset + FRAME_HEADER_BYTES + length
        payload = data[offset + FRAME_HEADER_BYTES : end]
        if checksum(payload) != crc or not length or end > available:
            if length == WRAP:
                return payloads, start + offset + data_bytes - (start + offset) % data_bytes, None
            return payloads, start + offset, _fault(length, available - offset)
        append(payload)
        offset = (end + 7) & ~7
    if offset < available:
        return payloads, start + offset, f"{available - offset} bytes left, too few for a frame header"
    return payloads, start + offset, None


def _fault(length: int, available: int) -> str:
    if not length:
        return "a frame of 0 bytes"
    if length + FRAME_HEADER_BYTES > available:
        return f"a frame of {length} bytes where {available} are left"
    return f"a frame of {length} bytes whose CRC does not match"
