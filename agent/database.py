"""One SQLite file that takes kills, full disks and damage: each transaction is on disk when it returns.

The journal is SQLite's rollback journal, kept between transactions, not the write-ahead log. On a full
disk the log can neither grow nor be copied back into the file, so that nothing can be deleted any more: a
spool would be stuck for good. The rollback journal needs only a few pages to delete a few rows, and their
room is reserved.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

from kaspan.agent.hold import SpoolError, hold

_PAGE_BYTES = 16 * 1024
_JOURNAL_BYTES = 1024 * 1024
_SHRINK_BYTES = 64 * 1024 * 1024

_PRAGMAS = (
    f"pragma page_size={_PAGE_BYTES}",
    # Nobody else may write, so the file's lock and cache are kept: a fifth less CPU.
    "pragma locking_mode=exclusive",
    "pragma journal_mode=persist",
    f"pragma journal_size_limit={_JOURNAL_BYTES}",
    "pragma synchronous=full",
    # Debian's SQLite overwrites what is deleted with zeros by default: a third of all the CPU spent here.
    "pragma secure_delete=off",
)

ASIDE = ".damaged-"
"""A damaged file is moved to its own name with this and a time."""

_Result = TypeVar("_Result")
_log = logging.getLogger("kaspan.agent")


class SpoolFull(Exception):
    """The spool takes nothing for now: its limit is reached or the disk is full; the message says which."""


class DiskFull(SpoolFull):
    """The disk takes nothing for now."""


class Database:
    """The file `path`. `steps` make it out of nothing: as many as are missing are made when it is opened.

    `load` is called in a transaction whenever a file is opened, also a new one in the place of a damaged one.
    Every method may be called from any thread, and holds `lock` meanwhile. `damages` counts the files that
    were moved aside. Raises SpoolError if the file cannot be had, has more steps than are known here, or
    another agent holds it.
    """

    def __init__(
        self, path: str, steps: Sequence[Sequence[str]], load: Callable[[sqlite3.Connection], None]
    ) -> None:
        self.path = path
        self._steps = steps
        self._load = load
        self.lock = threading.Lock()
        self.damages = 0
        self._resources = ExitStack()
        self._resources.callback(os.close, hold(path))
        try:
            self._open_or_start_over()
        except (sqlite3.Error, OSError, SpoolFull) as error:
            self.close()
            raise SpoolError(f"agent.spool.path: {path} cannot be used: {error}") from error
        except SpoolError:
            self.close()
            raise

    def _open_or_start_over(self) -> None:
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damaged(error):
                raise
            self._start_over(error)

    def _open(self) -> None:
        # SQLite would make it with the umask's mode, and its journal takes the mode of the file.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self._resources.callback(self._connection.close)
        for pragma in _PRAGMAS:
            self._connection.execute(pragma)
        self._attempt(self._prepare)
        self._reserve_journal()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("pragma user_version").fetchone()
        if version > len(self._steps):
            raise SpoolError(
                f"agent.spool.path: {self.path} was made by a newer kaspan (version {version}, "
                f"and this one writes {len(self._steps)}); use that one or another path"
            )
        for number, step in enumerate(self._steps[version:], version + 1):
            for statement in (*step, f"pragma user_version={number}"):
                connection.execute(statement)
        self._load(connection)

    def _reserve_journal(self) -> None:
        """Give the journal its room now. All zeros is how SQLite leaves it between transactions."""
        descriptor = os.open(f"{self.path}-journal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _JOURNAL_BYTES)
        except OSError as error:
            _log.warning("no room can be reserved beside %s: %s", self.path, error.strerror)
        finally:
            os.close(descriptor)

    def run(
        self, work: Callable[[sqlite3.Connection], _Result], count: Callable[[_Result], None] | None = None
    ) -> _Result:
        """Do `work` in one transaction and then `count`; on a damaged file, once more in a new one."""
        with self.lock:
            try:
                result = self._attempt(work)
            except sqlite3.DatabaseError as error:
                if not _is_damaged(error):
                    raise
                self._start_over(error)
                result = self._attempt(work)
            if count is not None:
                count(result)
            return result

    def _attempt(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        connection = self._connection
        try:
            connection.execute("begin exclusive")
            result = work(connection)
            connection.execute("commit")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("rollback")
            if _is_unwritable(error):
                raise DiskFull(f"{self.path} cannot be written: {error}") from error
            raise
        return result

    def _start_over(self, error: sqlite3.DatabaseError) -> None:
        """Move a damaged file aside and begin a new one: it must not keep an agent from starting."""
        self._connection.close()
        self.damages += 1
        aside = f"{self.path}{ASIDE}{time.time_ns() // 1000}"
        for suffix in ("", "-journal"):
            if os.path.exists(self.path + suffix):
                os.rename(self.path + suffix, aside + suffix)
        _log.error(
            "spool %s is damaged (%s): moved to %s, and a new one is started",
            *(self.path, error, aside),
            extra={"spool": self.path, "moved_to": aside},
        )
        self._open()

    def shrink(self) -> None:
        """Give space back to the disk, if much of the file is free: meant for one that was emptied.

        It writes all that is left in the file, so there must be more to give back than to write.
        """
        try:
            (pages,) = self._connection.execute("pragma page_count").fetchone()
            (free_pages,) = self._connection.execute("pragma freelist_count").fetchone()
            if free_pages * _PAGE_BYTES > _SHRINK_BYTES and free_pages > pages // 2:
                self._connection.execute("vacuum")
        except sqlite3.OperationalError as error:
            _log.debug("spool %s was not shrunk: %s", self.path, error)

    def close(self) -> None:
        """Close the file and let another agent have it."""
        with self.lock:
            self._resources.close()


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    # By text: Python 3.10 has no sqlite_errorcode.
    return any(text in str(error) for text in ("malformed", "file is not a database"))


def _is_unwritable(error: BaseException) -> bool:
    texts = ("is full", "disk I/O error", "readonly database", "is locked")
    return isinstance(error, sqlite3.OperationalError) and any(text in str(error) for text in texts)
