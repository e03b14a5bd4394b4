"""The partitions of a store that are open for reading, and which of them cannot be read."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable

from kaspan.store.partition_reader import PartitionReader, UnmadeError
from kaspan.store.partitions import list_partitions

IDLE_S = 10.0
"""After so long without a query all files are closed: an open file that retention has deleted takes disk."""

MAX_OPEN = 64
"""How many partitions stay open between queries. Each takes a descriptor and up to 400 kB."""

_log = logging.getLogger("kaspan.store")


class PartitionReaders:
    """Opens the partitions in the directory `path`. Any thread may call any method."""

    def __init__(self, path: str, clock_s: Callable[[], float]) -> None:
        self._path = path
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._open: dict[tuple[str, bool], PartitionReader] = {}
        self._reported: set[str] = set()
        self._used_s = 0.0
        self._timer: threading.Timer | None = None
        self._is_closed = False

    @property
    def damaged(self) -> frozenset[str]:
        """The partitions, and blocks in them, that could not be read since this was made."""
        return frozenset(self._reported)

    def all(self) -> list[PartitionReader]:
        """Return all partitions that can be opened, in the order in which they were written."""
        paths = [partition.path for partition in list_partitions(self._path)]
        wanted = [(path, path != paths[-1] and not _has_log(path)) for path in paths]
        with self._lock:
            if self._is_closed:
                raise ValueError("the store's reader is closed")
            self._used_s = self._clock_s()
            for key in self._open.keys() - set(wanted):
                del self._open[key]
            # The newest first: they stay open.
            found = [reader for key in reversed(wanted) if (reader := self._reader(*key)) is not None]
            self._start_timer()
        return found[::-1]

    def _reader(self, path: str, is_sealed: bool) -> PartitionReader | None:
        reader = self._open.get((path, is_sealed))
        if reader is not None and not reader.is_damaged:
            return reader
        try:
            reader = PartitionReader(path, is_sealed, self._report)
        except (sqlite3.Error, OSError) as error:
            is_new = isinstance(error, UnmadeError) and not is_sealed
            # Retention may have deleted it meanwhile.
            if os.path.exists(path) and not is_new:
                self._report(path, error)
            return None
        if len(self._open) < MAX_OPEN:
            self._open[path, is_sealed] = reader
        return reader

    def _report(self, name: str, error: Exception) -> None:
        """Log once what cannot be read."""
        if name not in self._reported:
            self._reported.add(name)
            _log.error("%s cannot be read, and is left out of answers: %s", name, error)

    def _start_timer(self) -> None:
        if self._timer is None and self._open:
            self._timer = threading.Timer(IDLE_S, self._close_if_idle)
            self._timer.daemon = True
            self._timer.start()

    def _close_if_idle(self) -> None:
        with self._lock:
            self._timer = None
            if self._clock_s() - self._used_s >= IDLE_S:
                self._open.clear()
            if not self._is_closed:
                self._start_timer()

    def close(self) -> None:
        """Close all files that no query is reading; those close when it ends."""
        with self._lock:
            self._is_closed = True
            self._open.clear()
            if self._timer is not None:
                self._timer.cancel()


def _has_log(path: str) -> bool:
    """Whether a part of a partition is still in its write-ahead log."""
    try:
        return os.stat(f"{path}-wal").st_size > 0
    except FileNotFoundError:
        return False
