"""One span ring as the agent sees it: a file it reads a piece of at a time and never maps.

A mapped file that somebody truncates kills whoever touches it; a read only comes back short.
"""

from __future__ import annotations

import json
import os
import struct

from kaspan.config.errors import escaped
from kaspan.wire import ring as layout

PIECE_BYTES = layout.MAX_SPAN_BYTES + layout.FRAME_HEADER_BYTES
"""No more of a ring than this is in memory at once."""
PATIENCE_S = 1.0
"""How long a frame may look wrong before it is: its bytes may become visible after the position."""
_MAX_POSITION = 1 << 62  # what still fits SQLite's integers with room to grow

_POSITIONS = struct.Struct("<QQQQQ")


class RingFile:
    """One ring, read from `position` on; the file's descriptor is this object's to close.

    Raises RingError if the file is no ring, or its positions cannot be true.
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
        self._suspect: tuple[int, float, str] | None = None
        self._check_positions()

    def resume(self, position: int) -> None:
        """Continue at the spool's position, in bytes ever written, if it is ahead of the ring's own.

        The agent may have been killed between the two. A position beyond all that was written is of an
        earlier ring of the same name.
        """
        if self.position < position <= self.write_pos:
            self.position = position
            self.publish()

    def publish(self) -> None:
        """Tell the writer how far its spans have been taken: their room is free again."""
        os.pwrite(self.descriptor, layout.pack_position(self.position), layout.READ_POS)

    def poll(self) -> None:
        """Look at what the writer has done since. Raises RingError if the positions cannot be true."""
        raw = os.pread(self.descriptor, _POSITIONS.size, layout.WRITE_POS)
        if len(raw) < _POSITIONS.size:
            raise layout.RingError("was truncated")
        self.write_pos, read_pos, self.dropped_spans, _, self.suppressed_errors = _POSITIONS.unpack(raw)
        self._check_positions()
        if read_pos < self.position:
            self.publish()  # it could not be said before

    @property
    def unread_bytes(self) -> int:
        """How much waits to be read, frame headers included."""
        return self.write_pos - self.position

    @property
    def fill(self) -> float:
        """How full it is, 0 to 1."""
        return float(self.unread_bytes / self.data_bytes)

    @property
    def is_suspect(self) -> bool:
        """Whether the next frame looked wrong when it was last read."""
        return self._suspect is not None

    def read(self, max_bytes: int, now_s: float) -> tuple[list[bytes], str | None]:
        """Take the next spans, from at most `max_bytes` of the ring, and move the position behind them.

        A span larger than `max_bytes` comes alone. Returns nothing while the next frame looks wrong, and
        after PATIENCE_S of that what was wrong with it and what was lost: everything up to the writer's
        position. Raises RingError if the file has become shorter.
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
                payloads, position, fault = [], start, "a mark that leads beyond what was written"
            if position > start:
                self.position = position
                self._suspect = None
                return payloads, None
        if len(data) < wanted:
            raise layout.RingError("was truncated")
        return [], self._judge(fault or "nothing where a frame should be", now_s)

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
            raise layout.RingError(
                f"says it was written to {write_pos} and read to {read_pos}, which no writer does"
            )
        if not 0 <= write_pos - read_pos <= self.data_bytes:
            raise layout.RingError(
                f"says it was written to {write_pos}, read to {read_pos}, and holds {self.data_bytes} bytes"
            )

    def close(self) -> None:
        """Close the file; its row in the spool and its name in the directory are the caller's matter."""
        os.close(self.descriptor)
        self.descriptor = -1  # the number may be another file's by now


def _service(process_json: bytes) -> str:
    """The writer's own name for itself; it is only text from a file, and becomes what can be shown."""
    try:
        process = json.loads(process_json)
    except (ValueError, RecursionError):
        return "?"
    return escaped(str(process.get("service", "?"))[:100]) if isinstance(process, dict) else "?"


def spool_key(path: str) -> str:
    """Return the text by which the spool knows a ring: SQLite takes no path whose bytes are not UTF-8."""
    return path.encode("unicode_escape").decode("ascii") if "\\" in path or not _is_utf8(path) else path


def ring_path(key: str) -> str:
    """Return the path for which a `spool_key` stands."""
    return key.encode("ascii", "replace").decode("unicode_escape", "replace") if "\\" in key else key


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
