"""The writing side of the span ring: bytes are copied into a file mapped into memory, and that is all.

No thread, no socket, no flush at exit. What was put is in the agent's reach at once and stays there when
the process is killed. Source of the idea: LTTng-UST's ring buffers in shared memory.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from zlib import crc32

from kaspan.interceptor.ring_dir import is_read
from kaspan.interceptor.ring_file import RingFile
from kaspan.interceptor.room import NoRoomError, mebibytes, warn_of_shortage
from kaspan.wire import ring as layout

# The positions as 64-bit numbers in the mapped header: one store, so that a reader never sees half of one.
_WRITE = layout.WRITE_POS // 8
_READ = layout.READ_POS // 8
_DROPPED = layout.DROPPED_SPANS // 8
_WRITTEN = layout.WRITTEN_SPANS // 8
_SUPPRESSED = layout.SUPPRESSED_ERRORS // 8


class SpanRing:
    """One process's ring in the directory `path`, or, where that has no room, in `fallback` on a disk.

    It has `max_bytes` for spans, or a half or quarter of that where room is short: one warning says so.
    `process` describes the process. Raises RingDirError if a directory breaks a rule, NoRoomError where there
    is no room for a ring.
    """

    def __init__(
        self, path: str, max_bytes: int, process: dict[str, object], fallback: str | None = None
    ) -> None:
        if sys.byteorder != "little":
            raise OSError("span rings are little endian, and this machine is not")
        self._file = _make_file(path, fallback, max_bytes, process)
        self._positions = memoryview(self._file.mapped)[: layout.HEADER_BYTES].cast("Q")
        self._writer = Writer(self._file.mapped, self._file.data_bytes)
        self.put = self._writer.put

    def note_suppressed(self, errors: int) -> None:
        """Write into the header how many failures the application has not seen."""
        self._positions[_SUPPRESSED] = errors

    def close(self) -> None:
        """Do nothing: what was put is in the agent's reach already."""

    def abandon(self) -> None:
        """Let go of the file without a word to the reader: the ring is the parent's, and this is its fork."""
        self._positions.release()
        self._writer.release()
        self._file.abandon()


def _make_file(path: str, fallback: str | None, max_bytes: int, process: dict[str, object]) -> RingFile:
    try:
        file = RingFile(path, max_bytes, process)
    except NoRoomError as error:
        # What lies where no agent looks is lost in the end: one that reads the other directory only is known.
        if fallback is None or (is_read(path) and not is_read(fallback)):
            raise
        try:
            file = RingFile(fallback, max_bytes, process, is_fallback=True)
        except OSError as also:
            raise NoRoomError(f"{error}; {also}") from error
        warn_of_shortage(str(error), f"in a ring in {fallback}")
        return file
    if file.shortage:
        warn_of_shortage(file.shortage, f"in a smaller ring there, of {mebibytes(file.data_bytes)} MiB")
    return file


class Writer:
    """Writes spans into a mapped ring with `data_bytes` for them.

    `put(payload: bytes)` appends one Zipkin v2 JSON span. It never blocks; when the ring is full, or the span
    larger than the agent takes, it drops the span and counts it. Safe from any thread, from a signal handler
    and from a finalizer that interrupts another put.
    """

    def __init__(self, mapped: mmap.mmap, data_bytes: int) -> None:
        if data_bytes % 8 or not 0 < data_bytes <= len(mapped) - layout.HEADER_BYTES:
            raise ValueError(f"no ring of {data_bytes} bytes for spans fits into {len(mapped)} bytes")
        self._positions = memoryview(mapped)[: layout.HEADER_BYTES].cast("Q")
        self.put = self._make_put(mapped, self._positions, data_bytes)

    def release(self) -> None:
        """Let go of the mapping: nothing can be put any more."""
        self._positions.release()

    @staticmethod
    def _make_put(mapped: mmap.mmap, positions: memoryview, data_bytes: int) -> Callable[[bytes], None]:
        # Closures, since every span goes through them and attributes cost a third of it.
        frame, header_bytes = layout.pack_frame, layout.HEADER_BYTES
        # No frame is larger than the ring, whatever `read_pos` says: others may write that.
        max_span_bytes = min(layout.MAX_SPAN_BYTES, data_bytes - layout.FRAME_HEADER_BYTES)
        lock = threading.Lock()
        acquire, release = lock.acquire, lock.release
        pending: deque[bytes] = deque()
        position = written = 0
        limit = data_bytes  # how far may be written before read_pos must be looked at again

        def write(payload: bytes) -> None:
            nonlocal position, written, limit
            length = len(payload)
            size = (length + 15) & ~7
            start = position
            index = start % data_bytes
            if index + size > data_bytes:  # a frame never wraps: a mark will send the reader to the start
                start += data_bytes - index
            if start + size > limit or length > max_span_bytes:
                limit = min(positions[_READ], position) + data_bytes
                if start + size > limit or length > max_span_bytes:
                    positions[_DROPPED] += 1
                    return
            if start != position:
                at = header_bytes + index
                mapped[at : at + 8] = frame(layout.WRAP, 0)
                index = 0
            at = header_bytes + index
            mapped[at : at + 8 + length] = frame(length, crc32(payload)) + payload
            position = start + size
            written += 1
            positions[_WRITE] = position
            positions[_WRITTEN] = written

        def put(payload: bytes) -> None:
            # Whoever holds the lock also writes what others had to leave in `pending` meanwhile.
            if acquire(False):
                try:
                    write(payload)
                finally:
                    release()
            else:
                pending.append(payload)
            while pending and acquire(False):
                try:
                    while pending:
                        write(pending[0])
                        pending.popleft()
                finally:
                    release()

        return put


if not TYPE_CHECKING:
    with contextlib.suppress(ImportError):
        from kaspan.interceptor.compiled import Writer
