"""The spool: where spans wait on disk from when the agent takes them until every sender has passed them.

One SQLite file, one connection, one lock. A row is a batch: JSON spans joined by SEPARATOR, without the
brackets of the list, so that rows are joined into one message without being read.

The journal is SQLite's rollback journal, kept between transactions, not the write-ahead log. On a full
disk the log can neither grow nor be copied back into the file, so that not even delivered rows can be
deleted any more: the spool would be stuck for good. The rollback journal needs only a few pages to delete.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import NamedTuple, TypeVar

from kaspan.agent.hold import SpoolError, hold

SEPARATOR = b",\n"
"""Between two spans of a batch. Spans from rings are one line each, so that this also finds their borders."""

_log = logging.getLogger("kaspan.agent")
_Result = TypeVar("_Result")
_NOTHING = (0, 0)

_VERSION = 1
_PAGE_BYTES = 16 * 1024
_SHRINK_BYTES = 64 * 1024 * 1024  # an empty spool larger than this gives its space back
_SCHEMA = (
    "create table batches"
    " (id integer primary key, spans integer, bytes integer, received_us integer, body blob)",
    "create table rings (path text primary key, position integer) without rowid",
    "create table senders (name text primary key, cursor integer) without rowid",
    "create table dead_letters"
    " (id integer primary key, sender text, died_us integer, reason text, span blob)",
    f"pragma user_version={_VERSION}",
)
_PRAGMAS = (
    f"pragma page_size={_PAGE_BYTES}",
    # Nobody else may write, so the file's lock and cache are kept: a fifth less CPU.
    "pragma locking_mode=exclusive",
    "pragma journal_mode=persist",
    "pragma synchronous=full",
    # Debian's SQLite overwrites what is deleted with zeros by default: a third of all the CPU spent here.
    "pragma secure_delete=off",
)


class Batch(NamedTuple):
    """Spans that were taken together: how many, and their JSON joined by SEPARATOR."""

    spans: int
    body: bytes


class Message(NamedTuple):
    """Consecutive batches for a sender, up to and with the row `last_id`."""

    last_id: int
    spans: int
    body: bytes


class SpoolFull(Exception):
    """The spool takes nothing for now: its limit is reached or the disk is full; the message says which."""


class Spool:
    """The spool in the file `path`, holding at most `max_bytes` of spans.

    Every method may be called from any thread; each blocks for one transaction, with the disk's flush.
    Raises SpoolError if the file cannot be had or another agent holds it.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.arrived = threading.Condition()
        self._lock = threading.Lock()
        self._next_id = 1
        self._senders: tuple[str, ...] = ()
        self._is_unsaved = False
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

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("pragma user_version").fetchone()
        if version > _VERSION:
            raise SpoolError(
                f"agent.spool.path: {self.path} was made by a newer kaspan (version {version}, "
                f"and this one writes {_VERSION}); use that one or another path"
            )
        if version == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
        self._cursors: dict[str, int] = dict(connection.execute("select name, cursor from senders"))
        newest, self.spans, self._bytes = connection.execute(
            "select coalesce(max(id), 0), coalesce(sum(spans), 0), coalesce(sum(bytes), 0) from batches"
        ).fetchone()
        (self._dead_bytes,) = connection.execute(
            "select coalesce(sum(length(span)), 0) from dead_letters"
        ).fetchone()
        # An id is never used twice, although rows go: a cursor must not be ahead of what comes.
        self._next_id = max(self._next_id, newest + 1, *(cursor + 1 for cursor in self._cursors.values()))

    def register(self, senders: Iterable[str]) -> None:
        """Say which senders there are: a batch is kept until all of them have passed it.

        A new one starts at the oldest batch there is.
        """
        self._senders = tuple(senders)
        for name in self._senders:
            self._cursors.setdefault(name, 0)

    def cursor(self, sender: str) -> int:
        """The id of the last batch that a sender has passed."""
        return self._cursors[sender]

    def positions(self) -> dict[str, int]:
        """How far each ring was taken, by path, in bytes ever written."""
        return self._run(lambda connection: dict(connection.execute("select path, position from rings")))

    def put(self, batches: Iterable[Batch], positions: Mapping[str, int]) -> None:
        """Store batches and the positions of their rings, all or nothing, safe on disk on return.

        Raises SpoolFull if they do not fit.
        """
        batches = tuple(batches)
        added = sum(len(batch.body) for batch in batches)

        gone = _NOTHING

        def work(connection: sqlite3.Connection) -> None:
            nonlocal gone
            if added and self._bytes + added > self.max_bytes:
                raise SpoolFull(
                    f"the spool holds {self._bytes} bytes of undelivered spans, and agent.spool.max_bytes is "
                    f"{self.max_bytes}"
                )
            now_us = time.time_ns() // 1000
            connection.executemany(
                "insert into batches values (?, ?, ?, ?, ?)",
                [
                    (self._next_id + index, batch.spans, len(batch.body), now_us, batch.body)
                    for index, batch in enumerate(batches)
                ],
            )
            connection.executemany("insert or replace into rings values (?, ?)", positions.items())
            if self._is_unsaved:
                # After the new rows: pages freed before would be written to the journal to be used again.
                gone = self._save_cursors(connection)

        def count() -> None:
            self._next_id += len(batches)
            self._bytes += added
            self.spans += sum(batch.spans for batch in batches)
            self._count_gone(gone)

        self._run(work, count)
        with self.arrived:
            self.arrived.notify_all()

    def forget(self, ring_paths: Iterable[str]) -> None:
        """Delete the positions of rings that are gone."""
        rows = [(path,) for path in ring_paths]
        self._run(lambda connection: connection.executemany("delete from rings where path = ?", rows))

    def read(self, after_id: int, max_bytes: int) -> Message | None:
        """The next batches after a row, joined: one, and more while they fit; None if there is none."""

        def work(connection: sqlite3.Connection) -> Message | None:
            last_id, spans, room = 0, 0, max_bytes
            for row in connection.execute(
                "select id, spans, bytes from batches where id > ? order by id", (after_id,)
            ):
                room -= row[2] + len(SEPARATOR)
                if last_id and room < 0:
                    break
                last_id, spans = row[0], spans + row[1]
            if not last_id:
                return None
            bodies = connection.execute(
                "select body from batches where id > ? and id <= ? order by id", (after_id, last_id)
            )
            return Message(last_id, spans, SEPARATOR.join([body for (body,) in bodies]))

        return self._run(work)

    def advance(self, sender: str, last_id: int) -> None:
        """Note in memory that a sender has passed all batches up to `last_id`.

        The next `put` saves it in its own transaction, or `save` does; a kill before that repeats them.
        """
        with self._lock:
            if last_id > self._cursors[sender]:
                self._cursors[sender] = last_id
                self._is_unsaved = True

    def save(self) -> None:
        """Save what was noted, unless a `put` has, and delete the batches that all senders have passed.

        Raises SpoolFull if the disk is: it stays noted in memory.
        """
        if not self._is_unsaved:
            return
        gone = _NOTHING

        def work(connection: sqlite3.Connection) -> None:
            nonlocal gone
            gone = self._save_cursors(connection)

        self._run(work, lambda: self._count_gone(gone))

    def _save_cursors(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Save all cursors and delete what all have passed; returns how many spans and bytes that was."""
        connection.executemany(
            "insert or replace into senders values (?, ?)",
            [(name, self._cursors[name]) for name in self._senders],
        )
        passed = (min(self._cursors[name] for name in self._senders),)
        sums = "select coalesce(sum(spans), 0), coalesce(sum(bytes), 0) from batches where id <= ?"
        spans, size = connection.execute(sums, passed).fetchone()
        connection.execute("delete from batches where id <= ?", passed)
        return spans, size

    def _count_gone(self, gone: tuple[int, int]) -> None:
        self._is_unsaved = False
        self.spans -= gone[0]
        self._bytes -= gone[1]
        if gone[1] and not self._bytes:
            self._shrink()

    def _shrink(self) -> None:
        """Give an empty spool's space back to the disk, after an outage that filled it."""
        if os.stat(self.path).st_size > _SHRINK_BYTES:
            try:
                self._connection.execute("vacuum")
            except sqlite3.OperationalError as error:
                _log.debug("spool %s was not shrunk: %s", self.path, error)

    def bury(self, sender: str, reason: str, span: bytes) -> bool:
        """Put a span that no server will ever take among the dead letters.

        They may fill a tenth of the spool; beyond that the span is dropped, and False returned.
        """
        died_us = time.time_ns() // 1000
        if self._dead_bytes + len(span) > self.max_bytes // 10:
            return False
        row = (sender, died_us, reason, span)
        statement = "insert into dead_letters (sender, died_us, reason, span) values (?, ?, ?, ?)"
        self._run(lambda connection: connection.execute(statement, row))
        self._dead_bytes += len(span)
        return True

    def _run(
        self, work: Callable[[sqlite3.Connection], _Result], count: Callable[[], None] | None = None
    ) -> _Result:
        """Do `work` in one transaction and then `count`; on a damaged file, once more in a new one."""
        with self._lock:
            try:
                result = self._attempt(work)
            except sqlite3.DatabaseError as error:
                if not _is_damaged(error):
                    raise
                self._start_over(error)
                result = self._attempt(work)
            if count is not None:
                count()
            return result

    def _attempt(self, work: Callable[[sqlite3.Connection], _Result]) -> _Result:
        connection = self._connection
        try:
            connection.execute("begin immediate")
            result = work(connection)
            connection.execute("commit")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("rollback")
            if _is_unwritable(error):
                raise SpoolFull(f"{self.path} cannot be written: {error}") from error
            raise
        return result

    def _start_over(self, error: sqlite3.DatabaseError) -> None:
        """Move a damaged file aside and begin a new one: it must not keep an agent from starting."""
        self._connection.close()
        aside = f"{self.path}.damaged-{time.time_ns() // 1000}"
        for suffix in ("", "-journal"):
            if os.path.exists(self.path + suffix):
                os.rename(self.path + suffix, aside + suffix)
        _log.error("spool %s is damaged (%s): moved to %s, and a new one is started", self.path, error, aside)
        self._open()
        self.register(self._senders)

    def wake(self) -> None:
        """Wake everyone who waits for spans, so that they see that the agent stops."""
        with self.arrived:
            self.arrived.notify_all()

    def wait(self, after_id: int, timeout_s: float) -> bool:
        """Wait until there is a batch after a row, or somebody calls `wake`; False when the time is over."""
        with self.arrived:
            return self._next_id > after_id + 1 or self.arrived.wait(timeout_s)

    def close(self) -> None:
        """Close the file and let another agent have it."""
        with self._lock:
            self._resources.close()


def _is_damaged(error: sqlite3.DatabaseError) -> bool:
    # By text: Python 3.10 has no sqlite_errorcode.
    return any(text in str(error) for text in ("malformed", "file is not a database"))


def _is_unwritable(error: BaseException) -> bool:
    texts = ("is full", "disk I/O error", "readonly database")
    return isinstance(error, sqlite3.OperationalError) and any(text in str(error) for text in texts)
