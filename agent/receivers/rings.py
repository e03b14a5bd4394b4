"""The rings in the agent's directories: found, opened, followed, and let go when their owner is gone."""

from __future__ import annotations

import errno
import logging
import os
import resource
import sys
from collections.abc import Mapping, Sequence

from kaspan.agent.receivers.ring_directory import RingDirectory, RingDirectoryError
from kaspan.agent.receivers.ring_file import RingFile, ring_path, spool_key
from kaspan.agent.receivers.service_stats import RingCounters, Services
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.spool import Spool
from kaspan.wire.ring import RingError, is_locked

DROP_WARNING_S = 10.0
"""A ring that keeps dropping is mentioned this often."""
TURNS_AT_ONCE = 64
"""So many rings at most give their descriptors to others in a round: some 30 microseconds each."""
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

_log = logging.getLogger("kaspan.agent")


class WatchedRing:
    """A ring and what is remembered about it; `is_gone` when its owner is, `taken_s` when spans last came."""

    def __init__(
        self, ring: RingFile, directory: RingDirectory, path: str, inode: int, counters: RingCounters
    ) -> None:
        self.ring = ring
        self.counters = counters
        self.directory = directory
        self.path = path
        self.inode = inode
        self.is_gone = False
        self.taken_s = 0.0
        self.reported_drops = 0
        self.next_report_s = 0.0


class Rings:
    """All rings in `directories`, and how far each was taken into `spool`: `positions`, by path.

    Rings that are `open` have a descriptor. Where there are more than half of RLIMIT_NOFILE, the others wait
    for their turn: `is_short`. One thread works with it. `lost_bytes` counts what stood in rings that are
    damaged, `rejected_rings` the files that are no rings, or no longer.
    """

    def __init__(self, directories: Sequence[RingDirectory], spool: Spool) -> None:
        self.lost_bytes = 0
        self.rejected_rings = 0
        self.is_short = self._has_warned = False
        self.services = Services()
        self.watched: dict[str, WatchedRing] = {}
        self.open: dict[str, WatchedRing] = {}
        self.positions = {ring_path(key): position for key, position in spool.positions().items()}
        self._directories = directories
        self._spool = spool
        self._waiting: dict[str, RingDirectory] = {}
        self._bad: dict[str, int] = {}
        self._changed_ns: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self._forget([path for path in self.positions if not os.path.exists(path)])

    def problems(self) -> list[str]:
        """Say which directories are not read, and why. Any thread may ask."""
        return list(self._refused.values())

    def find(self, complete: bool) -> None:
        """Open rings that came: where a directory has changed, or everywhere if the look is `complete`."""
        self._take_turns()
        self.is_short = False
        for directory in self._directories:
            if complete or directory.changed_ns() != self._changed_ns.get(directory.path):
                self._look_into(directory)
        self._open_waiting()
        if complete:
            for watched in self.open.values():
                watched.is_gone = watched.is_gone or not is_locked(watched.ring.descriptor)

    def _look_into(self, directory: RingDirectory) -> None:
        """List a directory, unless it breaks a rule."""
        try:
            if directory.open():
                for name in directory.remove_unfinished():
                    _log.info("removed %s/%s, which its maker left unfinished", directory.path, name)
                self._list(directory)
        except RingDirectoryError as error:
            self._refuse(directory, str(error))
        except OSError as error:
            if is_shortage(error):
                self._found_short()
            else:
                text = f"agent.ring_dirs: {directory.path} cannot be listed: {error.strerror}"
                self._refuse(directory, text)
        else:
            self._refused.pop(directory.path, None)

    def _refuse(self, directory: RingDirectory, text: str) -> None:
        if directory.path not in self._refused:
            _log.warning("%s", text)
        self._refused[directory.path] = text

    def _list(self, directory: RingDirectory) -> None:
        """Have what is new in a directory opened. What is no ring is mentioned once and left alone."""
        changed_ns = directory.changed_ns()
        paths = {f"{directory.path}/{name}": None for name in directory.ring_names()}
        self._changed_ns[directory.path] = changed_ns
        for path in [
            path for path in self._bad if path not in paths and os.path.dirname(path) == directory.path
        ]:
            del self._bad[path]
        # A ring that somebody removed is still read for as long as its owner lives and writes into it.
        for path in paths:
            if path not in self.watched:
                self._waiting.setdefault(path, directory)

    def _open_waiting(self) -> None:
        """Open rings that wait, the longest waiting first, while there are descriptors."""
        limit = _descriptors() // 2
        while self._waiting:
            path, directory = next(iter(self._waiting.items()))
            if len(self.open) >= limit or not self._open_ring(directory, path):
                self._found_short()
                return
            del self._waiting[path]

    def _found_short(self) -> None:
        self.is_short = True
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%d rings are open and others wait for their turn: the agent may have %d files open; raise "
                "`ulimit -n`, or LimitNOFILE= of its service",
                *(len(self.open), _descriptors()),
            )

    def _take_turns(self) -> None:
        """Close rings that have nothing more to give for others that wait: first those silent for longest."""
        if self.is_short:
            idle = [watched for watched in self.open.values() if not watched.ring.unread_bytes]
            idle.sort(key=lambda watched: watched.taken_s)
            # Half of them stay: one that is busy must not wait for those that are not.
            turns = min(TURNS_AT_ONCE, len(self._waiting), len(self.open) // 2)
            for watched in idle[: max(1, turns)]:
                watched.ring.close()
                del self.open[watched.path]
                self._waiting[watched.path] = watched.directory

    def _open_ring(self, directory: RingDirectory, path: str) -> bool:
        """Open a ring, for the first time or again; False if there is no descriptor for it."""
        name, descriptor, inode = os.path.basename(path), -1, 0
        try:
            descriptor, status = directory.open_ring(name)
            inode = status.st_ino
            if self._bad.get(path) == inode:
                os.close(descriptor)
                return True
            ring = RingFile(name, descriptor, status.st_size)
        except (RingDirectoryError, RingError, OSError) as error:
            if descriptor >= 0:
                os.close(descriptor)
            if is_shortage(error):
                return False
            self._drop(path)
            if not isinstance(error, FileNotFoundError):
                self._warn_bad(path, inode, str(error))
            return True
        self._watch(ring, directory, path, inode)
        return True

    def _watch(self, ring: RingFile, directory: RingDirectory, path: str, inode: int) -> None:
        watched = self.watched.get(path)
        if watched is not None and watched.inode == inode:
            watched.ring = ring
        else:
            self._drop(path)
            watched = WatchedRing(ring, directory, path, inode, self.services.counters_of(ring))
        ring.resume(self.positions.get(path, 0))
        self.positions[path] = ring.position
        watched.is_gone = not is_locked(ring.descriptor)
        self.watched[path] = self.open[path] = watched
        _log.debug("reads ring %s of %s", path, ring.service)

    def _drop(self, path: str) -> None:
        """Forget a ring that waited, and is not there any more as it was."""
        watched = self.watched.get(path)
        if watched is not None:
            self.rejected_rings += 1
            fields = {"ring": path, "service": watched.ring.service}
            text = "ring %(ring)s of %(service)s was removed or replaced while it waited for its turn"
            _log.warning(text, fields, extra=fields)
            self._close(watched)
            self._forget([path])

    def look(self, watched: WatchedRing, now_s: float) -> bool:
        """See what a ring's writer has done since; False if it is no ring any more, and rejected."""
        ring = watched.ring
        try:
            ring.poll()
        except (RingError, OSError) as error:
            self.fail(watched, error)
            return False
        watched.counters.polled(ring)
        if ring.dropped_spans > watched.reported_drops and now_s >= watched.next_report_s:
            self._report_drops(watched, now_s)
        return True

    def _report_drops(self, watched: WatchedRing, now_s: float) -> None:
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

    def stored(self, positions: Mapping[str, int]) -> None:
        """Tell the writers how far their spans are in the spool; the rings are at these `positions`."""
        self.positions.update(positions)
        for path in positions:
            watched = self.open.get(path)
            if watched is not None:  # not rejected meanwhile, and its file closed
                try:
                    watched.ring.publish()
                except OSError as error:
                    self.fail(watched, error)

    def remove_finished(self) -> None:
        """Remove rings that are empty, and whose owner was gone before that was seen."""
        removed = [
            watched for watched in self.open.values() if watched.is_gone and not watched.ring.unread_bytes
        ]
        for watched in removed:
            try:
                watched.directory.remove(watched.ring.name, watched.inode)
            except OSError as error:
                self._warn_bad(watched.path, watched.inode, f"is done with, but stays: {error.strerror}")
            self._close(watched)
            _log.debug("removed ring %s of %s: its process is gone", watched.path, watched.ring.service)
        self._forget([watched.path for watched in removed])

    def outside(self, directories: Sequence[RingDirectory]) -> list[WatchedRing]:
        """Return the open rings that are in none of these directories."""
        return [watched for watched in self.open.values() if watched.directory not in directories]

    def move(self, directories: Sequence[RingDirectory]) -> None:
        """Work with these directories, which are open; the files in those that are left out stay."""
        for watched in list(self.watched.values()):
            if watched.directory not in directories:
                self._close(watched)
        self._waiting = {path: found for path, found in self._waiting.items() if found in directories}
        for directory in self._directories:
            if directory not in directories:
                self._refused.pop(directory.path, None)
                directory.close()
        self._directories = directories

    def fail(self, watched: WatchedRing, error: Exception) -> None:
        """Read a ring no more, since it is none; what it held is lost. One may wait for memory, though."""
        if is_shortage(error):
            return
        self._warn_bad(watched.path, watched.inode, str(error))
        self.lost_bytes += min(max(0, watched.ring.unread_bytes), watched.ring.data_bytes)
        self._close(watched)

    def _close(self, watched: WatchedRing) -> None:
        del self.watched[watched.path]
        if self.open.pop(watched.path, None) is not None:
            watched.ring.close()

    def _warn_bad(self, path: str, inode: int, problem: str) -> None:
        if self._bad.get(path) != inode:
            self._bad[path] = inode
            self.rejected_rings += 1
            _log.warning("%s is not read: %s", path, problem, extra={"ring": path, "problem": problem})

    def _forget(self, paths: Sequence[str]) -> None:
        """Delete the positions of rings that are gone, all in one transaction."""
        for path in paths:
            self.positions.pop(path, None)
        if paths:
            try:
                self._spool.forget(map(spool_key, paths))
            except SpoolFull as full:
                # The rows are of no harm: they are looked for again at the next start.
                _log.debug("positions of removed rings stay: %s", full)

    def close(self) -> None:
        """Close everything; files and positions stay."""
        for watched in self.open.values():
            watched.ring.close()
        for directory in self._directories:
            directory.close()


def _descriptors() -> int:
    """Return how many files this process may have open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def is_shortage(error: Exception) -> bool:
    """Whether the system has too little of something just now, which is no fault of a file's."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES
