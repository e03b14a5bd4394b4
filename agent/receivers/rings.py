"""The rings in the agent's directories: finds, opens, polls, and finally removes them."""

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
"""How often the log reports a ring that drops spans."""
TURNS_AT_ONCE = 64
"""At most this many rings are closed for others in a round; each costs about 30 microseconds."""
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))

_log = logging.getLogger("kaspan.agent")


class WatchedRing:
    """A ring and its state. `is_gone`: its owner is gone. `stored_s`: when its spans were last stored."""

    def __init__(
        self, ring: RingFile, directory: RingDirectory, path: str, inode: int, counters: RingCounters
    ) -> None:
        self.ring = ring
        self.counters = counters
        self.directory = directory
        self.path = path
        self.inode = inode
        self.is_gone = False
        self.stored_s = 0.0
        self.reported_drops = 0
        self.next_report_s = 0.0


class Rings:
    """All rings in `directories`, and `positions`: how far each is stored in `spool`, by path.

    Rings in `open` have a descriptor. If there are more rings than half of RLIMIT_NOFILE, the others wait for
    their turn, and `is_short` is set. Only one thread may use it. `lost_bytes` counts bytes of spans lost in
    damaged rings, `rejected_rings` files that are not valid rings.
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
        self._delete_positions([path for path in self.positions if not os.path.exists(path)])

    def problems(self) -> list[str]:
        """Return a message for each directory that is not read, with the reason. Any thread may call it."""
        return list(self._refused.values())

    def find_new(self, complete: bool) -> None:
        """Open new rings: in directories that have changed, or in all of them if `complete`."""
        self._take_turns()
        self.is_short = False
        for directory in self._directories:
            if complete or directory.changed_ns() != self._changed_ns.get(directory.path):
                self._scan(directory)
        self._open_waiting()
        if complete:
            for watched in self.open.values():
                watched.is_gone = watched.is_gone or _is_orphan(watched.ring)

    def _scan(self, directory: RingDirectory) -> None:
        """Find new rings in a directory, unless it breaks a rule."""
        try:
            if directory.open():
                for name in directory.remove_unfinished():
                    _log.info(
                        "removed the ring %s/%s, which a process that is gone left unfinished",
                        directory.path,
                        name,
                    )
                self._queue_new(directory)
        except RingDirectoryError as error:
            self._refuse(directory, str(error))
        except OSError as error:
            if is_shortage(error):
                self._note_shortage()
            else:
                text = f"agent.ring_dirs: {directory.path} cannot be listed: {error.strerror}"
                self._refuse(directory, text)
        else:
            self._refused.pop(directory.path, None)

    def _refuse(self, directory: RingDirectory, text: str) -> None:
        if directory.path not in self._refused:
            _log.warning("%s", text)
        self._refused[directory.path] = text

    def _queue_new(self, directory: RingDirectory) -> None:
        """Queue new files in a directory for opening. Invalid files are logged once and left alone."""
        changed_ns = directory.changed_ns()
        paths = {f"{directory.path}/{name}": None for name in directory.ring_names()}
        self._changed_ns[directory.path] = changed_ns
        for path in [
            path for path in self._bad if path not in paths and os.path.dirname(path) == directory.path
        ]:
            del self._bad[path]
        # A ring that somebody removed is still read: its owner may still write into it.
        for path in paths:
            if path not in self.watched:
                self._waiting.setdefault(path, directory)

    def _open_waiting(self) -> None:
        """Open waiting rings, the longest waiting first, while descriptors are left."""
        limit = _descriptors() // 2
        while self._waiting:
            path, directory = next(iter(self._waiting.items()))
            if len(self.open) >= limit or not self._open_ring(directory, path):
                self._note_shortage()
                return
            del self._waiting[path]

    def _note_shortage(self) -> None:
        self.is_short = True
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "%d rings are open and others wait for their turn: the agent may open at most %d files; "
                "raise `ulimit -n`, or LimitNOFILE= of its service",
                *(len(self.open), _descriptors()),
            )

    def _take_turns(self) -> None:
        """Close rings without unread spans for others that wait: first those that were idle longest."""
        if self.is_short:
            idle = [watched for watched in self.open.values() if not watched.ring.unread_bytes]
            idle.sort(key=lambda watched: watched.stored_s)
            # Half of the open rings stay open: a busy ring must not wait for idle ones.
            turns = min(TURNS_AT_ONCE, len(self._waiting), len(self.open) // 2)
            for watched in idle[: max(1, turns)]:
                watched.ring.close()
                del self.open[watched.path]
                self._waiting[watched.path] = watched.directory

    def _open_ring(self, directory: RingDirectory, path: str) -> bool:
        """Open a ring, for the first time or again; False if no descriptor is left."""
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
            self._forget_waiting(path)
            if not isinstance(error, FileNotFoundError):
                self._warn_bad(path, inode, str(error))
            return True
        self._add(ring, directory, path, inode)
        return True

    def _add(self, ring: RingFile, directory: RingDirectory, path: str, inode: int) -> None:
        watched = self.watched.get(path)
        if watched is not None and watched.inode == inode:
            watched.ring = ring
        else:
            self._forget_waiting(path)
            watched = WatchedRing(ring, directory, path, inode, self.services.counters_of(ring))
        ring.resume(self.positions.get(path, 0))
        self.positions[path] = ring.position
        watched.is_gone = _is_orphan(ring)
        self.watched[path] = self.open[path] = watched
        _log.debug("reads ring %s of %s", path, ring.service)

    def _forget_waiting(self, path: str) -> None:
        """Forget a waiting ring that was removed or replaced."""
        watched = self.watched.get(path)
        if watched is not None:
            self.rejected_rings += 1
            fields = {"ring": path, "service": watched.ring.service}
            text = "ring %(ring)s of %(service)s was removed or replaced while it waited for its turn"
            _log.warning(text, fields, extra=fields)
            self._close(watched)
            self._delete_positions([path])

    def poll(self, watched: WatchedRing, now_s: float) -> bool:
        """Poll a ring's writer; False if the file is not a valid ring any more, and was rejected."""
        ring = watched.ring
        try:
            ring.poll()
        except (RingError, OSError) as error:
            self.reject(watched, error)
            return False
        watched.counters.polled(ring)
        if ring.dropped_spans > watched.reported_drops and now_s >= watched.next_report_s:
            self._report_drops(watched, now_s)
        return True

    def _report_drops(self, watched: WatchedRing, now_s: float) -> None:
        ring = watched.ring
        fields = {"ring": watched.path, "service": ring.service, "dropped_spans": ring.dropped_spans}
        _log.warning(
            "ring %(ring)s of %(service)s was full: %(dropped_spans)d spans dropped so far; the agent did "
            "not run, its spool was full, or interceptor.ring_bytes is too small",
            fields,
            extra=fields,
        )
        watched.reported_drops = ring.dropped_spans
        watched.next_report_s = now_s + DROP_WARNING_S

    def stored(self, positions: Mapping[str, int]) -> None:
        """Tell the writers that their spans are stored, up to these `positions`."""
        self.positions.update(positions)
        for path in positions:
            watched = self.open.get(path)
            if watched is not None:  # None: it was rejected and closed meanwhile
                try:
                    watched.ring.publish()
                except OSError as error:
                    self.reject(watched, error)

    def remove_finished(self) -> None:
        """Remove rings that are empty and whose owner is gone; the owner is checked first."""
        removed = [
            watched for watched in self.open.values() if watched.is_gone and not watched.ring.unread_bytes
        ]
        for watched in removed:
            try:
                watched.directory.remove(watched.ring.name, watched.inode)
            except OSError as error:
                self._warn_bad(
                    watched.path,
                    watched.inode,
                    f"its process is gone, and it cannot be removed: {error.strerror}",
                )
            self._close(watched)
            _log.debug("removed ring %s of %s: its process is gone", watched.path, watched.ring.service)
        self._delete_positions([watched.path for watched in removed])

    def outside(self, directories: Sequence[RingDirectory]) -> list[WatchedRing]:
        """Return the open rings that are in none of these directories."""
        return [watched for watched in self.open.values() if watched.directory not in directories]

    def use_directories(self, directories: Sequence[RingDirectory]) -> None:
        """Use these directories, which are open. Files in directories that are left out stay."""
        for watched in list(self.watched.values()):
            if watched.directory not in directories:
                self._close(watched)
        self._waiting = {path: found for path, found in self._waiting.items() if found in directories}
        for directory in self._directories:
            if directory not in directories:
                self._refused.pop(directory.path, None)
                directory.close()
        self._directories = directories

    def reject(self, watched: WatchedRing, error: Exception) -> None:
        """Reject an invalid ring: its unread spans are lost. A shortage of memory rejects nothing."""
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

    def _delete_positions(self, paths: Sequence[str]) -> None:
        """Delete the positions of removed rings, in one transaction."""
        for path in paths:
            self.positions.pop(path, None)
        if paths:
            try:
                self._spool.forget(map(spool_key, paths))
            except SpoolFull as full:
                # The rows do no harm; the next start deletes them.
                _log.debug("positions of removed rings stay: %s", full)

    def close(self) -> None:
        """Close all rings and directories; files and positions stay."""
        for watched in self.open.values():
            watched.ring.close()
        for directory in self._directories:
            directory.close()


def _is_orphan(ring: RingFile) -> bool:
    """Whether a ring's process is gone; not while that cannot be known, since its ring would be removed."""
    try:
        return not is_locked(ring.descriptor)
    except OSError:
        return False


def _descriptors() -> int:
    """Return how many files this process may open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit


def is_shortage(error: Exception) -> bool:
    """Whether an error means that the system lacks descriptors or memory: the file may be valid."""
    return isinstance(error, OSError) and error.errno in _SHORTAGES
