"""The writing side of the span ring: bytes are copied into a file mapped into memory, and that is all.

No thread, no socket, no flush at exit. What was put is in the agent's reach at once and stays there when
the process is killed. Source of the idea: LTTng-UST's ring buffers in shared memory.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import sys
import threading
from collections import deque
from zlib import crc32

from kaspan.interceptor.failures import suppressed_errors
from kaspan.interceptor.ring_dir import open_ring_dir, refuse_unread_orphans
from kaspan.wire import ring as layout

# The positions as 64-bit numbers in the mapped header: one store, so that a reader never sees half of one.
_WRITE, _READ, _DROPPED, _WRITTEN, _SUPPRESSED = range(
    layout.WRITE_POS // 8, layout.SUPPRESSED_ERRORS // 8 + 1
)


class SpanRing:
    """One process's ring in `path`, of `data_bytes` bytes for spans; `process` describes the process.

    Raises OSError if the directory or the file cannot be had (RingDirError where it is a matter of rules).
    """

    def __init__(self, path: str, data_bytes: int, process: dict[str, object]) -> None:
        if sys.byteorder != "little":
            raise OSError("span rings are little endian, and this machine is not")
        self._data_bytes = data_bytes & ~7
        directory = open_ring_dir(path)
        try:
            refuse_unread_orphans(directory, path)
            self._make(directory, process)
        finally:
            os.close(directory)
        self._positions = memoryview(self._map)[: layout.HEADER_BYTES].cast("Q")
        self._write_pos = 0
        self._pending: deque[bytes] = deque()
        self._lock = threading.Lock()

    def _make(self, directory: int, process: dict[str, object]) -> None:
        """Make the file under a temporary name and rename it when it is whole and locked."""
        name = f"{os.getpid()}-{os.urandom(8).hex()}"
        temporary, final = f".{name}.tmp", name + layout.SUFFIX
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            # The owner's lock for life: when it can be had, the owner is gone.
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = layout.HEADER_BYTES + self._data_bytes
            # A sparse file on a full tmpfs would be a SIGBUS in the application later.
            os.posix_fallocate(self._descriptor, 0, size)
            os.pwrite(self._descriptor, layout.pack_header(self._data_bytes, json.dumps(process).encode()), 0)
            self._map = mmap.mmap(self._descriptor, size)
            os.rename(temporary, final, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            os.close(self._descriptor)
            raise

    def put(self, payload: bytes) -> None:
        """Append one Zipkin v2 JSON span. Never blocks; when the ring is full, drops the span and counts it.

        Safe from any thread, from a signal handler and from a finalizer that interrupts another put: whoever
        holds the lock also writes what others have queued meanwhile.
        """
        pending = self._pending
        pending.append(payload)
        while pending and self._lock.acquire(False):
            try:
                self._write_pending()
            finally:
                self._lock.release()

    def _write_pending(self) -> None:
        pending, positions, data_bytes = self._pending, self._positions, self._data_bytes
        while pending:
            payload = pending[0]
            length = len(payload)
            size = (length + 15) & ~7
            position = self._write_pos
            index = position % data_bytes
            to_end = data_bytes - index
            # A frame never wraps: where it does not fit, a mark sends the reader to the start.
            skip = to_end if size > to_end else 0
            if size + skip > data_bytes - (position - positions[_READ]):
                positions[_DROPPED] += 1
                pending.popleft()
                continue
            if skip:
                layout.pack_frame_into(self._map, layout.HEADER_BYTES + index, layout.WRAP, 0)
                position += skip
                index = 0
            at = layout.HEADER_BYTES + index
            layout.pack_frame_into(self._map, at, length, crc32(payload))
            at += layout.FRAME_HEADER_BYTES
            self._map[at : at + length] = payload
            self._write_pos = positions[_WRITE] = position + size
            positions[_WRITTEN] += 1
            pending.popleft()
        positions[_SUPPRESSED] = suppressed_errors()

    def abandon(self) -> None:
        """Let go of the file without a word to the reader: the ring is the parent's, and this is its fork."""
        self._positions.release()
        self._map.close()
        os.close(self._descriptor)
