"""The spool: where spans wait on disk from when the agent takes them until every sender has passed them.

One SQLite file, one connection, one lock. A row is a batch: JSON spans joined by SEPARATOR, without the
brackets of the list, so that rows are joined into one message without being read.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from kaspan.agent.database import Database, DiskFull, SpoolFull

DAMAGED = "spool_damaged"
"""The reason for which the spans of a damaged file are dropped: as many as it held when that was found."""
SEPARATOR = b",\n"
"""Between two spans of a batch. Spans from rings are one line each, so that this also finds their borders."""

_VERSION = 1
_ROWS_DELETED_AT_ONCE = 32  # a journal page for each and a few beside must fit the reserve
_SCHEMA = (
    "create table batches"
    " (id integer primary key, spans integer, bytes integer, received_us integer, body blob)",
    "create table rings (path text primary key, position integer) without rowid",
    "create table senders (name text primary key, cursor integer) without rowid",
    "create table dead_letters"
    " (id integer primary key, sender text, died_us integer, reason text, span blob)",
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


class _Gone(NamedTuple):
    """What a transaction deleted; `is_partial` if there may be more to delete."""

    spans: int
    bytes: int
    is_partial: bool


_NOTHING = _Gone(0, 0, False)


class Spool:
    """The spool in the file `path`, holding at most `max_bytes` of spans.

    Every method may be called from any thread; each blocks for one transaction, with the disk's flush.
    `full` is why it takes nothing just now, None while it does. `dropped` counts spans that are gone
    undelivered, by reason.
    Raises SpoolError if the file cannot be had or another agent holds it.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.arrived = threading.Condition()
        self.spans = self.bytes = self.dead_bytes = self.dead_spans = 0
        self.full: str | None = None
        self.is_disk_full = False
        self.dropped: Counter[str] = Counter()
        self._next_id = 1
        self._senders: tuple[str, ...] = ()
        self._is_unsaved = False
        self._database = Database(path, _SCHEMA, _VERSION, self._load)

    def _load(self, connection: sqlite3.Connection) -> None:
        """Take over what is in the file; also of one that takes the place of a damaged one."""
        if self.spans:
            self.dropped[DAMAGED] += self.spans
        self._cursors: dict[str, int] = dict.fromkeys(self._senders, 0)
        self._cursors.update(connection.execute("select name, cursor from senders"))
        self._newest_id, self.spans, self.bytes = connection.execute(
            "select coalesce(max(id), 0), coalesce(sum(spans), 0), coalesce(sum(bytes), 0) from batches"
        ).fetchone()
        self.dead_spans, self.dead_bytes = connection.execute(
            "select count(*), coalesce(sum(length(span)), 0) from dead_letters"
        ).fetchone()
        # An id is never used twice, although rows go: a cursor must not be ahead of what comes.
        used = (self._newest_id, *self._cursors.values())
        self._next_id = max(self._next_id, *(row_id + 1 for row_id in used))

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

    def behind(self, sender: str) -> tuple[int, int | None]:
        """How far a sender is behind: batches not yet passed, and when the oldest came, in microseconds."""
        cursor = self._cursors[sender]
        oldest = self._database.run(
            lambda connection: connection.execute(
                "select id, received_us from batches where id > ? order by id limit 1", (cursor,)
            ).fetchone()
        )
        return (self._newest_id + 1 - oldest[0], oldest[1]) if oldest else (0, None)

    @property
    def damages(self) -> int:
        """How many times the file was found damaged and moved aside."""
        return self._database.damages

    def positions(self) -> dict[str, int]:
        """How far each ring was taken, by path, in bytes ever written."""
        return self._database.run(
            lambda connection: dict(connection.execute("select path, position from rings"))
        )

    def put(self, batches: Iterable[Batch], positions: Mapping[str, int]) -> None:
        """Store batches and the positions of their rings, all or nothing, safe on disk on return.

        Raises SpoolFull if they do not fit.
        """
        batches = tuple(batches)
        added = sum(len(batch.body) for batch in batches)

        def work(connection: sqlite3.Connection) -> _Gone:
            if added and self.bytes + added > self.max_bytes:
                raise SpoolFull(
                    f"the spool holds {self.bytes} bytes of undelivered spans, and agent.spool.max_bytes is "
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
            # After the new rows: pages freed before would be written to the journal to be used again.
            return self._save_cursors(connection) if self._is_unsaved else _NOTHING

        def count(gone: _Gone) -> None:
            self._next_id += len(batches)
            self._newest_id = self._next_id - 1
            self.bytes += added
            self.spans += sum(batch.spans for batch in batches)
            self._count_gone(gone)

        try:
            self._database.run(work, count)
        except SpoolFull as full:
            self.full, self.is_disk_full = str(full), isinstance(full, DiskFull)
            raise
        self.full = None
        with self.arrived:
            self.arrived.notify_all()

    def forget(self, ring_paths: Iterable[str]) -> None:
        """Delete the positions of rings that are gone."""
        rows = [(path,) for path in ring_paths]
        self._database.run(
            lambda connection: connection.executemany("delete from rings where path = ?", rows)
        )

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

        return self._database.run(work)

    def advance(self, sender: str, last_id: int) -> None:
        """Note in memory that a sender has passed all batches up to `last_id`.

        The next `put` saves it in its own transaction, or `save` does; a kill before that repeats them.
        """
        with self._database.lock:  # between its work and its count nothing may be noted
            if last_id > self._cursors[sender]:
                self._cursors[sender] = last_id
                self._is_unsaved = True

    def save(self) -> None:
        """Save what was noted, unless a `put` has, and delete the batches that all senders have passed.

        Raises SpoolFull if the disk is: it stays noted in memory.
        """
        while self._is_unsaved:
            self._database.run(self._save_cursors, self._count_gone)

    def _save_cursors(self, connection: sqlite3.Connection) -> _Gone:
        """Save all cursors and delete what all have passed, but not too much of it at once."""
        connection.executemany(
            "insert or replace into senders values (?, ?)",
            [(name, self._cursors[name]) for name in self._senders],
        )
        passed = min(self._cursors[name] for name in self._senders)
        rows = connection.execute(
            "select id, spans, bytes from batches where id <= ? order by id limit ?",
            (passed, _ROWS_DELETED_AT_ONCE),
        ).fetchall()
        if not rows:
            return _NOTHING
        connection.execute("delete from batches where id <= ?", (rows[-1][0],))
        return _Gone(
            sum(row[1] for row in rows), sum(row[2] for row in rows), len(rows) == _ROWS_DELETED_AT_ONCE
        )

    def _count_gone(self, gone: _Gone) -> None:
        self._is_unsaved = self._is_unsaved and gone.is_partial
        self.spans -= gone.spans
        self.bytes -= gone.bytes
        if gone.bytes:
            self.full = None  # until somebody finds otherwise
            if not self.bytes:
                self._database.shrink()

    def bury(self, sender: str, reason: str, span: bytes) -> bool:
        """Put a span that no server will ever take among the dead letters.

        They may fill a tenth of the spool; beyond that the span is dropped, and False returned.
        """
        died_us = time.time_ns() // 1000
        if self.dead_bytes + len(span) > self.max_bytes // 10:
            return False
        row = (sender, died_us, reason, span)
        statement = "insert into dead_letters (sender, died_us, reason, span) values (?, ?, ?, ?)"
        self._database.run(lambda connection: connection.execute(statement, row))
        self.dead_bytes += len(span)
        self.dead_spans += 1
        return True

    def wake(self) -> None:
        """Wake everyone who waits for spans, so that they see that the agent stops."""
        with self.arrived:
            self.arrived.notify_all()

    def wait(self, after_id: int, timeout_s: float) -> bool:
        """Wait until there is a batch after a row, or somebody calls `wake`; False when the time is over."""
        with self.arrived:
            return self._newest_id > after_id or self.arrived.wait(timeout_s)

    def close(self) -> None:
        """Close the file and let another agent have it."""
        self._database.close()
