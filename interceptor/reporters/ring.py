"""The writing side of the span ring: bytes are copied into a file mapped into memory, and that is all.

No thread, no socket, no flush at exit. What was put is in the agent's reach at once and stays there when
the process is killed. Source of the idea: LTTng-UST's ring buffers in shared memory.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time

from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.reporters import ring_writer
from kaspan.interceptor.reporters.ring_dir import RingDirError, is_read
from kaspan.interceptor.reporters.ring_file import RingFile
from kaspan.interceptor.reporters.room import NoRoomError, mebibytes, warn_of_shortage
from kaspan.wire import ring as layout

# The positions as 64-bit numbers in the mapped header: one store, so that a reader never sees half of one.
_WRITE = layout.WRITE_POS // 8
_READ = layout.READ_POS // 8
_DROPPED = layout.DROPPED_SPANS // 8
_SUPPRESSED = layout.SUPPRESSED_ERRORS // 8

Writer = accelerated(ring_writer.Writer)

CHECK_S = 1.0
"""How often it is looked whether a ring is still there, where spans come that often."""
RETRY_S = 60.0
"""How long a ring that is gone and cannot be replaced is gone on with."""
LOOK_BYTES = 8 * 1024
"""After how many bytes of spans the clock is looked at: some twenty spans."""


class RingGoneError(OSError):
    """A ring was removed while its process writes into it; the message says which, and what was done."""


class SpanRing:
    """One process's ring in the directory `path`, or, where that has no room, in `fallback` on a disk.

    It has `max_bytes` for spans, or a half or quarter of that where room is short: one warning says so. When
    somebody removes it, which is noticed within a second or with the next spans, a new one is made, and what
    was in it is put into that. `process` describes the process. Raises RingDirError if a directory breaks a
    rule, NoRoomError where there is no room for a ring.
    """

    def __init__(
        self, path: str, max_bytes: int, process: dict[str, object], fallback: str | None = None
    ) -> None:
        if sys.byteorder != "little":
            raise OSError("span rings are little endian, and this machine is not")
        self._make_file = functools.partial(_make_file, path, fallback, max_bytes, process)
        self._file = self._make_file()
        self._positions = _positions(self._file)
        self._looked_s = self._check_at_s = time.monotonic()
        self._writer = Writer(self._file.mapped, self._file.data_bytes, self._look)
        self.put = self._writer.put

    def note_suppressed(self, errors: int) -> None:
        """Write into the header how many failures the application has not seen."""
        # Another thread may be replacing the ring; the new one is told the next number.
        with contextlib.suppress(ValueError):
            self._positions[_SUPPRESSED] = errors

    def close(self) -> None:
        """See that what was put is in an agent's reach: the process is ending."""
        if self._positions[_WRITE] != self._positions[_READ]:
            self._check_at_s = 0.0
            self._writer.look()

    def _look(self) -> int:
        """See now and then whether the ring is still there; returns after how many bytes to look again."""
        now_s = time.monotonic()
        since_s, self._looked_s = now_s - self._looked_s, now_s
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + RETRY_S  # what is put meanwhile replaces nothing
            next_s = CHECK_S
            try:
                if self._file.is_gone():
                    self._replace()
            except Exception as error:  # noqa: BLE001 (the ring that there is takes spans as before)
                record_failure("replacing a span ring that was removed", error)
                next_s = RETRY_S
            finally:
                self._check_at_s = now_s + next_s
        # Where spans come one by one, each looks; where many come in a second, few do.
        return 1 if since_s > CHECK_S else LOOK_BYTES

    def _replace(self) -> None:
        old, positions = self._file, self._positions
        file = self._make_file()
        new_positions = _positions(file)
        new_positions[_DROPPED] = positions[_DROPPED]
        self._writer.move(file.mapped, file.data_bytes)
        unread = old.unread()
        for payload in unread:
            self.put(payload)
        # An agent that still has it open would take the same spans.
        positions[_WRITE] = positions[_READ]
        # Last, so that all of it is done again if a signal handler of the application's ends it before.
        self._file, self._positions = file, new_positions
        positions.release()
        old.abandon()
        gone = (
            f"{old.path} was removed while it was written, as systemd-logind does at a user's last logout "
            f"(RemoveIPC=yes); spans go into {self._file.path}, with {len(unread)} that no agent had taken"
        )
        record_failure("keeping the span ring", RingGoneError(gone))

    def abandon(self) -> None:
        """Let go of the file without a word to the reader: the ring is the parent's, and this is its fork."""
        self._positions.release()
        self._writer.release()
        self._file.abandon()


def _positions(file: RingFile) -> memoryview:
    return memoryview(file.mapped)[: layout.HEADER_BYTES].cast("Q")


def _make_file(path: str, fallback: str | None, max_bytes: int, process: dict[str, object]) -> RingFile:
    try:
        file = RingFile(path, max_bytes, process)
    except NoRoomError as error:
        # What lies where no agent looks is lost in the end: one that reads the other directory only is known.
        if fallback is None or (is_read(path) and not is_read(fallback)):
            raise
        try:
            file = RingFile(fallback, max_bytes, process, is_fallback=True)
        except (RingDirError, NoRoomError) as also:
            raise NoRoomError(f"{error}; {also}") from error
        warn_of_shortage(str(error), f"in a ring in {fallback}")
        return file
    if file.shortage:
        warn_of_shortage(file.shortage, f"in a smaller ring there, of {mebibytes(file.data_bytes)} MiB")
    return file
