"""The ring receiver: takes spans out of the applications' rings and into the spool.

The rings are the buffer. Nothing is held back here: a ring is left alone until its spans have waited for
`batch.flush_interval_s` or it is a quarter full, then its frames go into the spool joined, not decoded.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kaspan.agent.database import SpoolFull
from kaspan.agent.processors.chain import Chain, Tally
from kaspan.agent.receivers.directory import RingDirectory, RingDirectoryError, is_unlocked
from kaspan.agent.receivers.file import RingFile
from kaspan.agent.receivers.services import Meter, Services
from kaspan.agent.spool import SEPARATOR, Batch, Spool
from kaspan.agent.status import ServiceStatus
from kaspan.wire.ring import RingError

TICK_S = 0.05
"""How often rings are looked at: twenty looks a second at a header cost nothing that can be measured."""
SCAN_S = 1.0
"""How often a directory is listed even though it does not seem to have changed."""
DROP_WARNING_S = 10.0
"""A ring that keeps dropping is mentioned this often."""
_SPOOL = "spool"
_COMMIT_BYTES = 4 * 1024 * 1024  # no more than this is held in memory before it is written

_log = logging.getLogger("kaspan.agent")


class _Watched:
    """A ring and what the receiver remembers about it."""

    def __init__(self, ring: RingFile, directory: RingDirectory, path: str, meter: Meter) -> None:
        self.ring = ring
        self.meter = meter
        self.directory = directory
        self.path = path
        self.reported_drops = 0
        self.next_report_s = 0.0


class Adjustment(NamedTuple):
    """Settings of a receiver that may change while it works; the directories are open."""

    directories: Sequence[RingDirectory]
    batch_bytes: int
    flush_interval_s: float
    chain: Chain | None


class RingReceiver:
    """Reads the rings in `directories` into `spool`, in batches of at most `batch_bytes`.

    `tick` does one round and never blocks but for the disk; `run` calls it until `stop`, and drains all
    rings once more after that. When the spool is full rings are left unread, and their writers count what
    they drop. Without a `chain` spans are not decoded. `lost_bytes` counts what stood in damaged rings,
    and `rejected_rings` the files that are no rings, or no longer. `ticked_s` is when the last round began.
    """

    def __init__(
        self,
        directories: Sequence[RingDirectory],
        spool: Spool,
        batch_bytes: int,
        flush_interval_s: float,
        clock_s: Callable[[], float] = time.monotonic,
        chain: Chain | None = None,
    ) -> None:
        self.lost_bytes = 0
        self.rejected_rings = 0
        self.ticked_s = clock_s()
        self._directories = directories
        self._spool = spool
        self._batch_bytes = batch_bytes
        self._flush_interval_s = flush_interval_s
        self._clock_s = clock_s
        self._chain = chain
        self._tally = Tally()
        self._services = Services()
        self._adjustment: Adjustment | None = None
        self._stopping = threading.Event()
        self._watched: dict[str, _Watched] = {}
        self._bad: dict[str, int] = {}
        self._changed_ns: dict[str, int] = {}
        self._warnings: dict[str, str] = {}
        self._next_scan_s = self._next_flush_s = self._retry_s = clock_s()
        self._positions = spool.positions()
        self._forget_positions_of_gone_rings()

    def run(self) -> None:
        """Read until `stop` is called, then once more."""
        while not self._stopping.wait(min(TICK_S, self._flush_interval_s)):
            self.tick()
        self.tick(last=True)
        self._close()

    def stop(self) -> None:
        """Have `run` take what the rings hold now and return."""
        self._stopping.set()

    @property
    def taken_spans(self) -> int:
        """How many spans are safe in the spool, or were dropped by a processor."""
        return self._services.taken_spans

    def services(self) -> list[ServiceStatus]:
        """Return what came from each service and how full its rings are. Any thread may ask."""
        return self._services.observe([watched.ring for watched in list(self._watched.values())])

    def problems(self) -> list[str]:
        """Say which directories are not read, and why. Any thread may ask."""
        return [text for subject, text in list(self._warnings.items()) if subject != _SPOOL]

    def tick(self, last: bool = False) -> None:
        """Look at every ring once, and take the spans of those that are due: of all if it is the `last`."""
        now_s = self.ticked_s = self._clock_s()
        if self._adjustment is not None:
            self._adjust(self._adjustment, now_s)
        self._scan(now_s, last)
        flush = last or now_s >= self._next_flush_s
        if flush:
            self._next_flush_s = now_s + self._flush_interval_s
        due = [watched for watched in list(self._watched.values()) if self._is_due(watched, flush, now_s)]
        if due and (last or now_s >= self._retry_s):
            self._take(due, now_s)

    def adjust(self, adjustment: Adjustment) -> None:
        """Work with other settings from the next round on. Any thread may call it."""
        self._adjustment = adjustment

    def _adjust(self, new: Adjustment, now_s: float) -> None:
        """Take over new settings; what rings of directories that are left out hold is taken before."""
        self._adjustment = None
        leaving = [watched for watched in self._watched.values() if watched.directory not in new.directories]
        self._take([watched for watched in leaving if self._is_due(watched, True, now_s)], now_s)
        for watched in leaving:
            if self._watched.pop(watched.path, None):
                watched.ring.close()
        for directory in self._directories:
            if directory not in new.directories:
                self._warnings.pop(directory.path, None)
                directory.close()
        self._directories, self._chain = new.directories, new.chain
        self._batch_bytes, self._flush_interval_s = new.batch_bytes, new.flush_interval_s
        self._next_flush_s = self._next_scan_s = now_s

    def _is_due(self, watched: _Watched, flush: bool, now_s: float) -> bool:
        ring = watched.ring
        try:
            ring.poll()
        except RingError as error:
            self._reject(watched, str(error))
            return False
        watched.meter.polled()
        if ring.dropped_spans > watched.reported_drops and now_s >= watched.next_report_s:
            self._report_drops(watched, now_s)
        unread = ring.unread_bytes
        return unread > 0 and (flush or unread * 4 >= ring.data_bytes or ring.is_suspect)

    def _take(self, due: Sequence[_Watched], now_s: float) -> None:
        """Move spans from rings into the spool, in transactions of bounded size."""
        batches: list[Batch] = []
        spans: list[bytes] = []
        row_bytes = held_bytes = 0
        moved: dict[str, _Watched] = {}
        for watched in due:
            while True:
                payloads = self._read(watched, now_s)
                if payloads is None:
                    break
                moved[watched.path] = watched
                size = sum(map(len, payloads)) + len(SEPARATOR) * len(payloads)
                if row_bytes + size > self._batch_bytes and spans:
                    batches.append(Batch(len(spans), SEPARATOR.join(spans)))
                    spans, row_bytes = [], 0
                spans += payloads
                row_bytes += size
                held_bytes += size
                if held_bytes >= _COMMIT_BYTES:
                    if not self._commit(batches, spans, moved, now_s):
                        return
                    batches, spans, moved = [], [], {}
                    row_bytes = held_bytes = 0
        if moved:
            self._commit(batches, spans, moved, now_s)

    def _read(self, watched: _Watched, now_s: float) -> list[bytes] | None:
        """One piece of a ring: None when there is no more of it; nothing, but moved, when it was damaged."""
        if not watched.ring.unread_bytes:
            return None
        before = watched.ring.position
        try:
            # Pieces of equal size, not whole ones and a crumb that would be a message of its own.
            unread = watched.ring.unread_bytes
            payloads, lost = watched.ring.read(-(-unread // -(-unread // self._batch_bytes)), now_s)
        except (RingError, OSError) as error:
            self._reject(watched, str(error))
            return None
        if lost is not None:
            self.lost_bytes += watched.ring.position - before
            fields = {"ring": watched.path, "service": watched.ring.service, "problem": lost}
            _log.warning("ring %(ring)s of %(service)s is damaged: %(problem)s", fields, extra=fields)
        if watched.ring.position == before:
            return None
        watched.meter.read(len(payloads))
        return payloads if self._chain is None else self._chain.process(payloads, self._tally)

    def _commit(
        self, batches: list[Batch], spans: list[bytes], moved: dict[str, _Watched], now_s: float
    ) -> bool:
        """Write spans and positions together, then tell the writers: a kill between repeats nothing."""
        if spans:
            batches.append(Batch(len(spans), SEPARATOR.join(spans)))
        positions = {path: watched.ring.position for path, watched in moved.items()}
        try:
            self._spool.put(batches, positions)
        except SpoolFull as full:
            self._warn_once(_SPOOL, f"rings are left unread: {full}")
            for path, watched in moved.items():
                watched.ring.position = self._positions[path]
                watched.meter.left()
            self._tally = Tally()
            self._retry_s = now_s + SCAN_S
            return False
        if self._warnings.pop(_SPOOL, None):
            _log.info("the spool takes spans again")
        if self._chain is not None:
            self._chain.count(self._tally)
            self._tally = Tally()
        self._positions.update(positions)
        for path, watched in moved.items():
            watched.meter.stored()
            if path in self._watched:  # not rejected meanwhile, and its file closed
                watched.ring.publish()
        return True

    def _scan(self, now_s: float, last: bool) -> None:
        """Find rings that came, and finish those whose owner is gone."""
        complete = last or now_s >= self._next_scan_s
        if complete:
            self._next_scan_s = now_s + SCAN_S
        for directory in self._directories:
            if complete and not self._opened(directory):
                continue
            changed_ns = directory.changed_ns()
            if complete or changed_ns != self._changed_ns.get(directory.path):
                self._changed_ns[directory.path] = changed_ns
                self._adopt(directory)
        if complete:
            self._finish_orphans(now_s)

    def _opened(self, directory: RingDirectory) -> bool:
        try:
            opened = directory.open()
        except RingDirectoryError as error:
            self._warn_once(directory.path, str(error))
            return False
        self._warnings.pop(directory.path, None)
        for name in directory.remove_unfinished() if opened else ():
            _log.info("removed %s/%s, which its maker left unfinished", directory.path, name)
        return opened

    def _adopt(self, directory: RingDirectory) -> None:
        """Open what is new in a directory. What is no ring is mentioned once and left alone."""
        names = {f"{directory.path}/{name}": name for name in directory.ring_names()}
        for path in [
            path for path in self._bad if path not in names and os.path.dirname(path) == directory.path
        ]:
            del self._bad[path]
        # A ring that somebody removed is still read for as long as its owner lives and writes into it.
        for path, name in names.items():
            if path not in self._watched:
                self._open_ring(directory, path, name)

    def _open_ring(self, directory: RingDirectory, path: str, name: str) -> None:
        try:
            descriptor, status = directory.open_ring(name)
        except FileNotFoundError:
            return
        except (OSError, RingDirectoryError) as error:
            self._warn_bad(path, 0, str(error))
            return
        if self._bad.get(path) == status.st_ino:
            os.close(descriptor)
            return
        try:
            ring = RingFile(name, descriptor, status.st_size)
        except (RingError, OSError) as error:
            os.close(descriptor)
            self._warn_bad(path, status.st_ino, str(error))
            return
        ring.resume(self._positions.get(path, 0))
        self._positions[path] = ring.position
        self._watched[path] = _Watched(ring, directory, path, self._services.meter(ring))
        _log.debug("reads ring %s of %s", path, ring.service)

    def _finish_orphans(self, now_s: float) -> None:
        """Take the rest of rings whose owner is gone, then remove them."""
        gone = [watched for watched in list(self._watched.values()) if is_unlocked(watched.ring.descriptor)]
        # Looked at after the lock was found free, so this is all that its owner ever wrote.
        due = [watched for watched in gone if self._is_due(watched, True, now_s)]
        if due and now_s >= self._retry_s:
            self._take(due, now_s)
        done = [
            watched for watched in gone if watched.path in self._watched and not watched.ring.unread_bytes
        ]
        for watched in done:
            watched.directory.remove(watched.ring.name)
            self._drop(watched)
            _log.debug("removed ring %s of %s: its process is gone", watched.path, watched.ring.service)

    def _drop(self, watched: _Watched) -> None:
        watched.ring.close()
        del self._watched[watched.path]
        self._positions.pop(watched.path, None)
        self._forget([watched.path])

    def _forget(self, paths: Sequence[str]) -> None:
        try:
            self._spool.forget(paths)
        except SpoolFull as full:
            # The rows are of no harm: they are looked for again at the next start.
            _log.debug("positions of removed rings stay: %s", full)

    def _forget_positions_of_gone_rings(self) -> None:
        gone = [path for path in self._positions if not os.path.exists(path)]
        for path in gone:
            del self._positions[path]
        if gone:
            self._forget(gone)

    def _reject(self, watched: _Watched, problem: str) -> None:
        self._warn_bad(watched.path, os.fstat(watched.ring.descriptor).st_ino, problem)
        self.lost_bytes += min(max(0, watched.ring.unread_bytes), watched.ring.data_bytes)
        watched.ring.close()
        del self._watched[watched.path]

    def _warn_bad(self, path: str, inode: int, problem: str) -> None:
        if self._bad.get(path) != inode:
            self._bad[path] = inode
            self.rejected_rings += 1
            _log.warning("%s is not read: %s", path, problem, extra={"ring": path, "problem": problem})

    def _warn_once(self, subject: str, text: str) -> None:
        if self._warnings.get(subject) is None:
            self._warnings[subject] = text
            _log.warning("%s", text)

    def _report_drops(self, watched: _Watched, now_s: float) -> None:
        ring = watched.ring
        fields = {"ring": watched.path, "service": ring.service, "dropped_spans": ring.dropped_spans}
        _log.warning(
            "ring %(ring)s of %(service)s was full: %(dropped_spans)d spans dropped so far; the agent was "
            "away or its spool full, or interceptor.ring_bytes is small",
            fields,
            extra=fields,
        )
        watched.reported_drops = ring.dropped_spans
        watched.next_report_s = now_s + DROP_WARNING_S

    def _close(self) -> None:
        for watched in self._watched.values():
            watched.ring.close()
        for directory in self._directories:
            directory.close()
