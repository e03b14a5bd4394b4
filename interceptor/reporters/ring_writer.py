"""Copy spans into a mapped ring. This is all that a report costs the application."""

from __future__ import annotations

import mmap
import threading
from collections import deque
from collections.abc import Callable
from zlib import crc32

from kaspan.interceptor.failures import pass_on
from kaspan.wire import ring as layout

# Indexes into the mapped header as 64-bit numbers: one store writes each, so a reader never sees half of it.
_WRITE = layout.WRITE_POS // 8
_READ = layout.READ_POS // 8
_DROPPED = layout.DROPPED_SPANS // 8
_WRITTEN = layout.WRITTEN_SPANS // 8

_NEVER = 1 << 63


class Writer:
    """Writes spans into a mapped ring that has `data_bytes` for them.

    `put(payload: bytes)` appends one Zipkin v2 JSON span. It never blocks. It drops and counts a span if the
    ring is full or the span is larger than MAX_SPAN_BYTES. Safe in any thread, in a signal handler, and in a
    finalizer that interrupts another put.

    `on_look` is called between two spans at times. It returns after how many bytes to call it again, and may
    call `move(mapped, data_bytes)` to write into another ring. `look()` calls it at once.
    """

    def __init__(self, mapped: mmap.mmap, data_bytes: int, on_look: Callable[[], int] | None = None) -> None:
        self._positions, write = _make_write(mapped, data_bytes)
        self.put, self.look, self.move = self._make(write, on_look)

    def release(self) -> None:
        """Release the mapping. After that, put raises ValueError."""
        self._positions.release()

    def _make(
        self, write: Callable[[bytes], int], on_look: Callable[[], int] | None
    ) -> tuple[Callable[[bytes], None], Callable[[], None], Callable[[mmap.mmap, int], None]]:
        # Closures: attributes would take a third more time for each span.
        lock = threading.Lock()
        acquire, release = lock.acquire, lock.release
        pending: deque[bytes] = deque()
        look_at = _NEVER if on_look is None else 1

        def put(payload: bytes) -> None:
            # The thread that holds the lock also writes what the others leave in `pending`.
            if acquire(False):
                try:
                    if write(payload) >= look_at:
                        look_around()
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

        def look_around() -> None:
            nonlocal look_at
            if on_look is not None:
                look_at = _NEVER  # a span that is put meanwhile does not look
                try:
                    look_at = on_look() + self._positions[_WRITE]
                except BaseException as error:  # noqa: BLE001 (raised, the span would be put again)
                    look_at = 1
                    pass_on("looking after the span ring", error)

        def look() -> None:
            if acquire(False):
                try:
                    look_around()
                finally:
                    release()

        def move(mapped: mmap.mmap, data_bytes: int) -> None:
            nonlocal write
            left = self._positions
            self._positions, write = _make_write(mapped, data_bytes)
            left.release()

        return put, look, move


def _make_write(mapped: mmap.mmap, data_bytes: int) -> tuple[memoryview, Callable[[bytes], int]]:
    """Return the positions of a ring and write(payload), which returns the position after it."""
    if data_bytes % 8 or not 0 < data_bytes <= len(mapped) - layout.HEADER_BYTES:
        raise ValueError(f"no ring of {data_bytes} bytes for spans fits into {len(mapped)} bytes")
    frame, header_bytes = layout.pack_frame, layout.HEADER_BYTES
    # A frame is never larger than the ring, even if another process writes nonsense into `read_pos`.
    max_span_bytes = min(layout.MAX_SPAN_BYTES, data_bytes - layout.FRAME_HEADER_BYTES)
    positions = memoryview(mapped)[:header_bytes].cast("Q")
    position = written = 0
    limit = data_bytes  # how far to write before read_pos must be read again

    def write(payload: bytes) -> int:
        nonlocal position, written, limit
        length = len(payload)
        size = (length + 15) & ~7
        start = position
        index = start % data_bytes
        if index + size > data_bytes:  # a frame never wraps: a mark sends the reader to the start
            start += data_bytes - index
        if start + size > limit or length > max_span_bytes:
            limit = min(positions[_READ], position) + data_bytes
            if start + size > limit or length > max_span_bytes:
                positions[_DROPPED] += 1
                return _NEVER  # look now: the ring may be gone
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
        return position

    return positions, write
