"""Report spans through a ring: a file mapped into memory, from which the agent reads.

There is no thread, no socket, and no flush at exit. The agent can read a span as soon as it is put, even if
the process is killed right after. Source of the idea: LTTng-UST's ring buffers in shared memory.
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

# Indexes into the mapped header as 64-bit numbers: one store writes each, so a reader never sees half of it.
_WRITE = layout.WRITE_POS // 8
_READ = layout.READ_POS // 8
_DROPPED = layout.DROPPED_SPANS // 8
_SUPPRESSED = layout.SUPPRESSED_ERRORS // 8
_POLLED = layout.POLLED_RECORDS // 8
_WITHOUT_LENGTH = layout.WITHOUT_LENGTH // 8

Writer = accelerated(ring_writer.Writer)

CHECK_S = 1.0
"""How often to check that the ring's file exists, if spans come that often."""
RETRY_S = 60.0
"""How long to go on with a removed ring that could not be replaced, before the next try."""
LOOK_BYTES = 8 * 1024
"""After how many bytes of spans to look at the clock: about twenty spans."""


class RingGoneError(OSError):
    """A ring was removed while its process wrote into it. The message names it and what was done."""


class SpanRing:
    """The ring of one process in the directory `path`, or in `fallback`, on a disk, if that has no room.

    It has `max_bytes` for spans. If room is short it has a half or a quarter of that, and one warning says
    so. If its file is removed, the next span after a second makes a new ring and copies the unread spans.
    `process` describes the process. Raises RingDirError if a directory breaks a rule, NoRoomError if neither
    has room.
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
        """Write the number of suppressed failures into the header."""
        # ValueError: another thread replaces the ring now. The new one gets the next number.
        with contextlib.suppress(ValueError):
            self._positions[_SUPPRESSED] = errors

    def note_polled(self, records: int, without_length: int) -> None:
        """Write the numbers of PolledRecords into the header."""
        with contextlib.suppress(ValueError):  # as in note_suppressed
            self._positions[_POLLED] = records
            self._positions[_WITHOUT_LENGTH] = without_length

    def close(self) -> None:
        """Check, when the process ends, that an agent can find the unread spans."""
        if self._positions[_WRITE] != self._positions[_READ]:
            self._check_at_s = 0.0
            self._writer.look()

    def _look(self) -> int:
        """Check at times that the ring's file exists. Returns after how many bytes to look again."""
        now_s = time.monotonic()
        since_s, self._looked_s = now_s - self._looked_s, now_s
        if now_s >= self._check_at_s:
            self._check_at_s = now_s + RETRY_S  # spans that are put meanwhile replace nothing
            next_s = CHECK_S
            try:
                if self._file.is_gone():
                    self._replace()
            except Exception as error:  # noqa: BLE001 (the old ring still works)
                record_failure("replacing a span ring that was removed", error)
                next_s = RETRY_S
            finally:
                self._check_at_s = now_s + next_s
        # If spans are rare, each one looks; if many come in a second, few do.
        return 1 if since_s > CHECK_S else LOOK_BYTES

    def _replace(self) -> None:
        old, positions = self._file, self._positions
        file = self._make_file()
        new_positions = _positions(file)
        for counter in (_DROPPED, _POLLED, _WITHOUT_LENGTH):
            new_positions[counter] = positions[counter]
        self._writer.move(file.mapped, file.data_bytes)
        unread = old.unread()
        for payload in unread:
            self.put(payload)
        # Marked as read: an agent that has the old file open would read them too.
        positions[_WRITE] = positions[_READ]
        # Last: if a signal handler of the application interrupts this, all of it is done again.
        self._file, self._positions = file, new_positions
        positions.release()
        old.abandon()
        gone = (
            f"{old.path} was removed while it was written, as systemd-logind does at a user's last logout "
            f"(RemoveIPC=yes); spans go into {self._file.path}, with {len(unread)} that no agent had taken"
        )
        record_failure("keeping the span ring", RingGoneError(gone))

    def abandon(self) -> None:
        """Unmap the file, in a forked child, and change nothing in it: the ring is the parent's."""
        self._positions.release()
        self._writer.release()
        self._file.abandon()


def _positions(file: RingFile) -> memoryview:
    return memoryview(file.mapped)[: layout.HEADER_BYTES].cast("Q")


def _make_file(path: str, fallback: str | None, max_bytes: int, process: dict[str, object]) -> RingFile:
    try:
        file = RingFile(path, max_bytes, process)
    except NoRoomError as error:
        # Spans in a directory that no agent reads are lost. If an agent reads only `path`, do not use it.
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
