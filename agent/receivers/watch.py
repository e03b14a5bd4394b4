"""The rings in the agent's directories: found, opened, followed, and let go when their owner is gone."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from kaspan.agent.database import SpoolFull
from kaspan.agent.receivers.directory import RingDirectory, RingDirectoryError, is_unlocked
from kaspan.agent.receivers.file import RingFile
from kaspan.agent.receivers.services import Meter, Services
from kaspan.agent.spool import Spool
from kaspan.wire.ring import RingError

DROP_WARNING_S = 10.0
"""A ring that keeps dropping is mentioned this often."""

_log = logging.getLogger("kaspan.agent")


class Watched:
    """A ring and what is remembered about it."""

    def __init__(self, ring: RingFile, directory: RingDirectory, path: str, meter: Meter) -> None:
        self.ring = ring
        self.meter = meter
        self.directory = directory
        self.path = path
        self.reported_drops = 0
        self.next_report_s = 0.0


class Rings:
    """All rings in `directories`, and how far each was taken into `spool`: `positions`, by path.

    One thread works with it. `lost_bytes` counts what stood in rings that are damaged, `rejected_rings` the
    files that are no rings, or no longer.
    """

    def __init__(self, directories: Sequence[RingDirectory], spool: Spool) -> None:
        self.lost_bytes = 0
        self.rejected_rings = 0
        self.services = Services()
        self.watched: dict[str, Watched] = {}
        self.positions = spool.positions()
        self._directories = directories
        self._spool = spool
        self._bad: dict[str, int] = {}
        self._changed_ns: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._forget_positions_of_gone_rings()

    def problems(self) -> list[str]:
        """Say which directories are not read, and why. Any thread may ask."""
        return list(self._refused.values())

    def find(self, complete: bool) -> None:
        """Open rings that came: where a directory has changed, or everywhere if the look is `complete`."""
        for directory in self._directories:
            if complete and not self._opened(directory):
                continue
            changed_ns = directory.changed_ns()
            if complete or changed_ns != self._changed_ns.get(directory.path):
                self._changed_ns[directory.path] = changed_ns
                self._adopt(directory)

    def _opened(self, directory: RingDirectory) -> bool:
        try:
            opened = directory.open()
        except RingDirectoryError as error:
            if directory.path not in self._refused:
                self._refused[directory.path] = str(error)
                _log.warning("%s", error)
            return False
        self._refused.pop(directory.path, None)
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
            if path not in self.watched:
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
        ring.resume(self.positions.get(path, 0))
        self.positions[path] = ring.position
        self.watched[path] = Watched(ring, directory, path, self.services.meter(ring))
        _log.debug("reads ring %s of %s", path, ring.service)

    def look(self, watched: Watched, now_s: float) -> bool:
        """See what a ring's writer has done since; False if it is no ring any more, and rejected."""
        ring = watched.ring
        try:
            ring.poll()
        except RingError as error:
            self.reject(watched, str(error))
            return False
        watched.meter.polled()
        if ring.dropped_spans > watched.reported_drops and now_s >= watched.next_report_s:
            self._report_drops(watched, now_s)
        return True

    def _report_drops(self, watched: Watched, now_s: float) -> None:
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

    def orphans(self) -> list[Watched]:
        """Return the rings whose owner is gone: what they hold after this is all that was ever written."""
        return [watched for watched in list(self.watched.values()) if is_unlocked(watched.ring.descriptor)]

    def remove(self, watched: Watched) -> None:
        """Remove a ring that is empty, and whose owner is gone."""
        watched.directory.remove(watched.ring.name)
        watched.ring.close()
        del self.watched[watched.path]
        self.positions.pop(watched.path, None)
        self._forget([watched.path])
        _log.debug("removed ring %s of %s: its process is gone", watched.path, watched.ring.service)

    def outside(self, directories: Sequence[RingDirectory]) -> list[Watched]:
        """Return the rings that are in none of these directories."""
        return [watched for watched in self.watched.values() if watched.directory not in directories]

    def move(self, directories: Sequence[RingDirectory]) -> None:
        """Work with these directories, which are open; the files in those that are left out stay."""
        for watched in self.outside(directories):
            watched.ring.close()
            del self.watched[watched.path]
        for directory in self._directories:
            if directory not in directories:
                self._refused.pop(directory.path, None)
                directory.close()
        self._directories = directories

    def reject(self, watched: Watched, problem: str) -> None:
        """Read a ring no more, since it is none; what it held is lost."""
        self._warn_bad(watched.path, os.fstat(watched.ring.descriptor).st_ino, problem)
        self.lost_bytes += min(max(0, watched.ring.unread_bytes), watched.ring.data_bytes)
        watched.ring.close()
        del self.watched[watched.path]

    def _warn_bad(self, path: str, inode: int, problem: str) -> None:
        if self._bad.get(path) != inode:
            self._bad[path] = inode
            self.rejected_rings += 1
            _log.warning("%s is not read: %s", path, problem, extra={"ring": path, "problem": problem})

    def _forget(self, paths: Sequence[str]) -> None:
        try:
            self._spool.forget(paths)
        except SpoolFull as full:
            # The rows are of no harm: they are looked for again at the next start.
            _log.debug("positions of removed rings stay: %s", full)

    def _forget_positions_of_gone_rings(self) -> None:
        gone = [path for path in self.positions if not os.path.exists(path)]
        for path in gone:
            del self.positions[path]
        if gone:
            self._forget(gone)

    def close(self) -> None:
        """Close everything; files and positions stay."""
        for watched in self.watched.values():
            watched.ring.close()
        for directory in self._directories:
            directory.close()
