"""The writing side of the span ring: bytes are copied into a file mapped into memory, and that is all.

No thread, no socket, no flush at exit. What was put is in the agent's reach at once and stays there when
the process is killed. Source of the idea: LTTng-UST's ring buffers in shared memory.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING
from zlib import crc32

from kaspan.interceptor.ring_dir import open_ring_dir, refuse_unread_orphans
from kaspan.wire import ring as layout

# The positions as 64-bit numbers in the mapped header: one store, so that a reader never sees half of one.
_WRITE = layout.WRITE_POS // 8
_READ = layout.READ_POS // 8
_DROPPED = layout.DROPPED_SPANS // 8
_WRITTEN = layout.WRITTEN_SPANS // 8
_SUPPRESSED = layout.SUPPRESSED_ERRORS // 8


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
        self._writer = Writer(self._map, self._data_bytes)
        self.put = self._writer.put

    def _make(self, directory: int, process: dict[str, object]) -> None:
        """Make the file under a temporary name and rename it when it is whole and locked."""
        name = f"{os.getpid()}-{os.urandom(8).hex()}"
        temporary, final = f".{name}.tmp", name + layout.SUFFIX
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            # The owner's lock for life: when it can be had, the owner is gone. The mapping keeps it, not the
            # descriptor, which processes that turn into daemons close together with all others.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = layout.HEADER_BYTES + self._data_bytes
            # A sparse file on a full tmpfs would be a SIGBUS in the application later.
            os.posix_fallocate(descriptor, 0, size)
            os.pwrite(descriptor, layout.pack_header(self._data_bytes, json.dumps(process).encode()), 0)
            self._identity = _identity(descriptor)
            self._map, self._map_descriptor = _map(descriptor, size)
            os.rename(temporary, final, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            os.unlink(temporary, dir_fd=directory)
            raise
        finally:
            os.close(descriptor)

    def note_suppressed(self, errors: int) -> None:
        """Write into the header how many failures the application has not seen."""
        self._positions[_SUPPRESSED] = errors

    def abandon(self) -> None:
        """Let go of the file without a word to the reader: the ring is the parent's, and this is its fork."""
        self._positions.release()
        self._writer.release()
        if self._map_descriptor is None or _identity(self._map_descriptor) in (self._identity, None):
            self._map.close()
        else:
            # Its descriptor was closed, and the number is somebody else's by now: to close the mapping, or
            # to let Python free it, would close that one. What hooks hold is freed after all modules are.
            os.register_at_fork(before=lambda _kept=self._map: None)


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


def _map(descriptor: int, size: int) -> tuple[mmap.mmap, int | None]:
    """Map a file, and tell which descriptor Python keeps for the mapping: None from 3.13 on."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, trackfd=False), None
    probe = os.dup(descriptor)
    os.close(probe)
    # The next one that is made has the same number; unless another thread was faster, which `abandon` sees.
    return mmap.mmap(descriptor, size), probe


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Which file a descriptor is; None when it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino
