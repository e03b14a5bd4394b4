"""One span ring as the agent reads it: a piece of the file at a time, and never mapped.

If somebody truncates a mapped file, the next access kills the process; a read only returns less.
"""

from __future__ import annotations

import json
import os
import struct

from kaspan.config.errors import escaped
from kaspan.wire import ring as layout

PIECE_BYTES = layout.MAX_SPAN_BYTES + layout.FRAME_HEADER_BYTES
"""The agent holds at most this much of a ring in memory."""
PATIENCE_S = 1.0
"""How long a frame may look wrong before it counts as damaged: its bytes may become visible late."""
_MAX_POSITION = 1 << 62  # fits into SQLite's integers, with room to grow

_POSITIONS = struct.Struct("<QQQQQ")


class RingFile:
    """One ring, read from `position` on. It owns the descriptor.

    Raises RingError if the file is not a ring, or if its positions are impossible.
    """

    def __init__(self, name: str, descriptor: int, size: int) -> None:
        self.name = name
        self.descriptor = descriptor
        header = layout.Header(os.pread(descriptor, layout.HEADER_BYTES, 0))
        self.data_bytes = header.data_bytes
        if size != layout.HEADER_BYTES + self.data_bytes:
            raise layout.RingError(
                f"is {size} bytes long, and its header says {layout.HEADER_BYTES} + {self.data_bytes}"
            )
        self.service = _service(header.process_json)
        self.position: int = header.read_pos
        self.write_pos: int = header.write_pos
        self.dropped_spans = header.dropped_spans
        self.suppressed_errors = header.suppressed_errors
        self.polled_records, self.without_length = header.polled_records, header.without_length
        self._counts_polled = header.counts_polled
        self._suspect: tuple[int, float, str] | None = None
        self._check_positions()

    def resume(self, position: int) -> None:
        """Continue at the spool's position, in bytes ever written, if it is ahead of the ring's own.

        It is ahead if the agent was killed after storing spans and before telling the writer. A position
        beyond the written bytes belongs to an earlier ring of the same name.
        """
        if self.position < position <= self.write_pos:
            self.position = position
            self.publish()

    def publish(self) -> None:
        """Tell the writer how far its spans are stored, so that it may overwrite them."""
        os.pwrite(self.descriptor, layout.pack_position(self.position), layout.READ_POS)

    def poll(self) -> None:
        """Read the writer's positions and counters. Raises RingError if the positions are impossible."""
        raw = os.pread(self.descriptor, layout.HEADER_BYTES - layout.WRITE_POS, layout.WRITE_POS)
        if len(raw) < layout.HEADER_BYTES - layout.WRITE_POS:
            raise layout.RingError("was truncated")
        self.write_pos, read_pos, self.dropped_spans, _, self.suppressed_errors = _POSITIONS.unpack_from(raw)
        if self._counts_polled:
            at = layout.POLLED_RECORDS - layout.WRITE_POS
            self.polled_records, self.without_length = layout.unpack_polled(raw[at:])
        self._check_positions()
        if read_pos < self.position:
            self.publish()  # an earlier attempt failed

    @property
    def unread_bytes(self) -> int:
        """How many bytes wait to be read, frame headers included."""
        return self.write_pos - self.position

    @property
    def fill(self) -> float:
        """How full the ring is, 0 to 1."""
        return float(self.unread_bytes / self.data_bytes)

    @property
    def is_suspect(self) -> bool:
        """Whether the next frame looked wrong when it was last read."""
        return self._suspect is not None

    def read(self, max_bytes: int, now_s: float) -> tuple[list[bytes], str | None]:
        """Read the next spans, from at most `max_bytes` of the ring, and move the position behind them.

        A span larger than `max_bytes` is returned alone. While the next frame looks wrong, the list is empty.
        After PATIENCE_S of that everything up to the writer's position is skipped, and the text says what was
        wrong and what was lost. Raises RingError if the file was truncated.
        """
        for limit in (min(max_bytes, PIECE_BYTES), PIECE_BYTES):
            start, room = self.position, self.data_bytes - self.position % self.data_bytes
            wanted = min(self.unread_bytes, room, limit)
            data = os.pread(self.descriptor, wanted, layout.HEADER_BYTES + start % self.data_bytes)
            payloads, position, fault = layout.read_frames(data, start, self.data_bytes)
            if limit > max_bytes and payloads:
                del payloads[1:]
                position = start + layout.frame_bytes(len(payloads[0]))
            if position > self.write_pos:
                payloads, position, fault = [], start, "a mark that points beyond what was written"
            if position > start:
                self.position = position
                self._suspect = None
                return payloads, None
        if len(data) < wanted:
            raise layout.RingError("was truncated")
        return [], self._judge(fault or "no frame where one should be", now_s)

    def _judge(self, fault: str, now_s: float) -> str | None:
        if self._suspect is None or self._suspect[0] != self.position:
            self._suspect = (self.position, now_s, fault)
            return None
        if now_s - self._suspect[1] < PATIENCE_S:
            return None
        lost = f"{fault} at position {self.position}; {self.unread_bytes} bytes of spans are lost"
        self.position = self.write_pos
        self._suspect = None
        return lost

    def _check_positions(self) -> None:
        read_pos, write_pos = self.position, self.write_pos
        if write_pos % 8 or read_pos % 8 or write_pos > _MAX_POSITION:
            raise layout.RingError(f"has impossible positions: written to {write_pos}, read to {read_pos}")
        if not 0 <= write_pos - read_pos <= self.data_bytes:
            raise layout.RingError(
                f"has impossible positions: written to {write_pos}, read to {read_pos}, "
                f"of {self.data_bytes} bytes"
            )

    def close(self) -> None:
        """Close the file. The caller removes the file and its position in the spool."""
        os.close(self.descriptor)
        self.descriptor = -1  # another file may get the number


def _service(process_json: bytes) -> str:
    """Return the service that the writer names, escaped: it is text from a file."""
    try:
        process = json.loads(process_json)
    except (ValueError, RecursionError):
        return "?"
    return escaped(str(process.get("service", "?"))[:100]) if isinstance(process, dict) else "?"


def spool_key(path: str) -> str:
    """Return a ring's key in the spool: its path, escaped if its bytes are not UTF-8, as SQLite requires."""
    return path.encode("unicode_escape").decode("ascii") if "\\" in path or not _is_utf8(path) else path


def ring_path(key: str) -> str:
    """Return the path of a `spool_key`."""
    return key.encode("ascii", "replace").decode("unicode_escape", "replace") if "\\" in key else key


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
