"""One SQLite file that survives kills, full disks and damage: a transaction is on disk when it returns.

The journal is SQLite's rollback journal, kept between transactions, and not the write-ahead log. On a full
disk the write-ahead log can neither grow nor be copied back into the file: nothing could be deleted any more,
and the spool would be stuck for ever. The rollback journal needs few pages to delete few rows, and their
space is reserved.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from typing import TypeVar

from kaspan.agent.spool.damage import ERRORS, DamagedError, is_damage, is_unwritable
from kaspan.agent.spool.lock import SpoolError, acquire_lock

PAGE_BYTES = 16 * 1024
_JOURNAL_BYTES = 1024 * 1024
_SHRINK_BYTES = 64 * 1024 * 1024

_PRAGMAS = (
    f"pragma page_size={PAGE_BYTES}",
    # Only this process writes, so SQLite may keep the file's lock and cache: a fifth less CPU.
    "pragma locking_mode=exclusive",
    "pragma journal_mode=persist",
    f"pragma journal_size_limit={_JOURNAL_BYTES}",
    "pragma synchronous=full",
    # By default Debian's SQLite overwrites deleted content with zeros: a third of the CPU spent here.
    "pragma secure_delete=off",
)

DAMAGED_INFIX = ".damaged-"
"""A damaged file is moved aside: its new name is the old one, this, and a time."""

_SUFFIXES = ("", "-journal")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_HEADER_BYTES = 100
_VERSIONS = slice(18, 20)  # of the file format, for writing and for reading; source: fileformat2.html

_Result = TypeVar("_Result")
_VERSIONS_TO_COME = 1000  # a version above this is damage

_Identity = tuple[int, int]
_Columns = dict[str, list[tuple[str, str, int]]]
_log = logging.getLogger("kaspan.agent")


class SpoolFull(Exception):
    """The spool accepts nothing now: its limit is reached or the disk is full; the message says which."""


class DiskFull(SpoolFull):
    """The disk cannot be written now."""


class FileLostError(DiskFull):
    """The file was removed or truncated: what was written to it would not survive this process."""


class Database:
    """The SQLite file `path`. `steps` create its tables; opening it runs the steps that it does not have yet.

    `load` is called in a transaction after a file is opened, also after a new one replaces a damaged one.
    Before that, `set_aside` is called with the damaged file's new name. Any thread may call any method;
    `lock` is held meanwhile. `damages` counts the files that were moved aside. Raises SpoolError if the file
    cannot be used, if it has more steps than this version knows, or if another agent uses it.
    """

    def __init__(
        self,
        path: str,
        steps: Sequence[Sequence[str]],
        load: Callable[[sqlite3.Connection], None],
        set_aside: Callable[[str], None],
    ) -> None:
        self.path = path
        self._steps = steps
        self._load = load
        self._set_aside = set_aside
        self.lock = threading.Lock()
        self.damages = 0
        self._aside = ""
        self._files: list[_Identity | None] = []
        self._size = 0
        self._lost = ""
        self._lock_descriptor = acquire_lock(path)
        self._resources = ExitStack()
        self._resources.callback(lambda: os.close(self._lock_descriptor))
        try:
            self._open_or_start_over()
        except (sqlite3.Error, OSError, SpoolFull) as error:
            self.close()
            raise SpoolError(self._say_unusable(error)) from error
        except SpoolError:
            self.close()
            raise

    def _say_unusable(self, error: Exception) -> str:
        message = f"agent.spool.path: {self.path} cannot be used: {error}"
        if "is full" in str(error) or (isinstance(error, OSError) and error.errno in _NO_ROOM):
            message += "; make room on its disk, or set the path to another one"
        if self._aside:
            message += (
                f"; what the damaged spool held is in {self._aside}, and `kaspan agent spool recover "
                f"{self._aside}` puts it back after that"
            )
        return message

    def _open_or_start_over(self) -> None:
        try:
            self._open()
        except ERRORS as error:
            if not is_damage(error):
                raise
            self._start_over(error)

    def _open(self) -> None:
        self._connection = self._connect()
        self._attempt(self._prepare)
        self._reserve_journal()
        self._note_files()

    def _connect(self) -> sqlite3.Connection:
        # SQLite would create it with the umask's mode; the journal gets the mode of the file.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with open(descriptor, "rb") as file:
            header = file.read(_HEADER_BYTES)
        connection = self._connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False
        )
        self._resources.callback(connection.close)
        if header and header[_VERSIONS] != b"\1\1":
            # SQLite would not write it, and report a disk that is read-only.
            raise DamagedError("its header is not a spool's")
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("pragma user_version").fetchone()
        is_known = _columns(connection) == self._made(min(max(0, version), len(self._steps)))
        if len(self._steps) < version < _VERSIONS_TO_COME and not is_known:
            raise SpoolError(
                f"agent.spool.path: {self.path} was made by a newer kaspan (version {version}, "
                f"and this one writes {len(self._steps)}); use that one or another path"
            )
        # Each step changes the tables: a version that does not fit them is damage.
        if not 0 <= version <= len(self._steps) or not is_known:
            raise DamagedError(f"its tables do not fit its version, {version}")
        for number, step in enumerate(self._steps[version:], version + 1):
            for statement in (*step, f"pragma user_version={number}"):
                connection.execute(statement)
        self._load(connection)

    def _made(self, version: int) -> _Columns:
        """Return the columns of the tables of a version."""
        with closing(sqlite3.connect(":memory:")) as connection:
            for step in self._steps[:version]:
                for statement in step:
                    connection.execute(statement)
            return _columns(connection)

    def _reserve_journal(self) -> None:
        """Reserve the journal's space on disk. SQLite, too, leaves it all zeros between transactions."""
        descriptor = os.open(f"{self.path}-journal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _JOURNAL_BYTES)
        except OSError as error:
            _log.warning("no disk space can be reserved for %s: %s", self.path, error.strerror)
        finally:
            os.close(descriptor)

    def run(
        self, work: Callable[[sqlite3.Connection], _Result], count: Callable[[_Result], None] | None = None
    ) -> _Result:
        """Do `work` in one transaction, then `count`; if the file is damaged, do both again in a new file.

        On return, what was written is in the file that the next agent opens. Raises DiskFull if the disk
        cannot be written, and FileLostError if the file was removed and cannot be written again. The work
        that finds this out is done all the same; later work is not, if it writes.
        """

        def guarded(connection: sqlite3.Connection) -> _Result:
            before = connection.total_changes
            result = work(connection)
            # The caller tries again, and the open file would keep each attempt.
            if self._lost and connection.total_changes != before:
                raise FileLostError(self._lost)
            return result

        with self.lock:
            if self._is_cut_off():  # writing after the cut would hide it
                self._start_over(DamagedError("somebody has truncated it"))
            changes = self._connection.total_changes
            try:
                result = self._attempt(guarded)
            except FileLostError:
                self._keep_files()
                result = self._attempt(guarded)
            except ERRORS as error:
                if not is_damage(error):
                    raise
                self._start_over(error)
                result = self._attempt(guarded)
            if count is not None:
                count(result)
            if self._connection.total_changes != changes:
                self._keep_files()
            return result

    def keep_files(self) -> None:
        """Write the file again if somebody has removed it. Raises FileLostError if that fails."""
        with self.lock:
            self._keep_files()

    def _keep_files(self) -> None:
        found, journal = (_stat(self.path + suffix) for suffix in _SUFFIXES)
        if [_identity(found), _identity(journal)] != self._files:
            try:
                self._restore(is_there=_identity(found) == self._files[0])
            except (OSError, sqlite3.Error, SpoolError) as error:
                self._lost = f"{self.path} was removed, and cannot be written again: {error}"
                raise FileLostError(self._lost) from error
        elif found is not None and found.st_size < self._size:
            self._start_over(DamagedError("somebody has truncated it"))
            raise FileLostError(f"{self.path} was truncated")
        elif found is not None:
            self._size = found.st_size
            self._lost = ""  # it may have been moved away and back

    def _is_cut_off(self) -> bool:
        found = _stat(self.path)
        return found is not None and _identity(found) == self._files[0] and found.st_size < self._size

    def _note_files(self) -> None:
        self._files = [_identity(os.stat(self.path + suffix)) for suffix in _SUFFIXES]
        self._size = os.stat(self.path).st_size
        self._lost = ""

    def _restore(self, is_there: bool) -> None:
        """Copy the open file, which was removed, into a new one. If only the journal was, create it again."""
        self._lock_again()
        before = self._connection
        if is_there:
            before.close()
            self._connect()
            self._reserve_journal()
            self._note_files()
            return
        if os.path.lexists(self.path):
            self._move_aside()
        try:
            before.backup(self._connect())
        except BaseException:
            if self._connection is not before:
                self._connection.close()
            self._connection = before  # the only copy of what it holds
            for suffix in _SUFFIXES:
                with suppress(FileNotFoundError):
                    os.unlink(self.path + suffix)
            raise
        before.close()
        self._reserve_journal()
        self._note_files()
        _log.error(
            "spool %s was removed or replaced while the agent used it: the agent has written it again",
            self.path,
            extra={"spool": self.path},
        )

    def _lock_again(self) -> None:
        """Take the lock anew if the lock file was removed. Raises SpoolError."""
        if _identity(_stat(f"{self.path}.lock")) == _identity(os.fstat(self._lock_descriptor)):
            return
        before, self._lock_descriptor = self._lock_descriptor, acquire_lock(self.path)
        os.close(before)

    def _attempt(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        connection = self._connection
        try:
            connection.execute("begin exclusive")
            result = work(connection)
            connection.execute("commit")
        except BaseException as error:
            if connection.in_transaction:
                with suppress(sqlite3.Error):  # SQLite has rolled back itself where this fails
                    connection.execute("rollback")
            if is_unwritable(error):
                raise DiskFull(f"{self.path} cannot be written: {error}") from error
            raise
        return result

    def _start_over(self, error: Exception) -> None:
        """Move a damaged file aside and start a new one: damage must not keep an agent from starting."""
        self._connection.close()
        self.damages += 1
        self._aside = aside = self._move_aside()
        _log.error(
            "spool %s is damaged (%s): moved to %s, and a new one is started",
            # As text: by its traceback, an exception that a log handler keeps would keep this file open.
            *(self.path, str(error), aside),
            extra={"spool": self.path, "moved_to": aside},
        )
        self._set_aside(aside)
        self._open()

    def _move_aside(self) -> str:
        aside = f"{self.path}{DAMAGED_INFIX}{time.time_ns() // 1000}"
        for suffix in _SUFFIXES:
            with suppress(FileNotFoundError):
                os.rename(self.path + suffix, aside + suffix)
        return aside

    def shrink(self) -> None:
        """Give disk space back if more than half of the file, and more than _SHRINK_BYTES, is free.

        Shrinking rewrites all that is left in the file, so it must free more than it writes.
        """
        try:
            (pages,) = self._connection.execute("pragma page_count").fetchone()
            (free_pages,) = self._connection.execute("pragma freelist_count").fetchone()
            if free_pages * PAGE_BYTES > _SHRINK_BYTES and free_pages > pages // 2:
                self._connection.execute("vacuum")
                self._size = os.stat(self.path).st_size  # if the file was replaced, the next check finds it
        except (sqlite3.DatabaseError, OSError) as error:
            _log.debug("spool %s was not shrunk: %s", self.path, error)

    def close(self) -> None:
        """Close the file, and release it for another agent."""
        with self.lock:
            self._resources.close()


def _columns(connection: sqlite3.Connection) -> _Columns:
    """Return the columns of all tables: name, type, and position in the primary key."""
    tables = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    return {
        name: [(row[1], row[2], row[5]) for row in connection.execute(f'pragma table_info("{name}")')]
        for (name,) in tables
    }


def _stat(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> _Identity | None:
    return None if found is None else (found.st_dev, found.st_ino)
