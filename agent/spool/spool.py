"""The spool: where spans wait on disk from when the agent takes them until every sender has passed them.

One SQLite file, one connection, one lock. A row is a batch: JSON spans joined by SEPARATOR, without the
brackets of the list, so that rows are joined into one message without being read.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from kaspan.agent.batch import Batch
from kaspan.agent.spool.damage import DamagedError, whole
from kaspan.agent.spool.database import Database, DiskFull, SpoolFull
from kaspan.agent.spool.pages import waiting_spans
from kaspan.agent.spool.portions import Portions
from kaspan.agent.spool.tables import STEPS, Message, read_cursors, read_message, read_oldest, read_positions

__all__ = ["DAMAGED", "EXPIRED", "SENDER_REMOVED", "Gone", "Message", "Row", "Spool"]

DAMAGED = "spool_damaged"
"""The reason for which the spans of a damaged file are dropped, until somebody recovers them."""
EXPIRED = "spool_expired"
"""The reason for which spans are dropped that waited longer than agent.spool.max_age_s."""
SENDER_REMOVED = "sender_removed"
"""The reason for which spans are dropped that nobody but a sender which is no longer there had to pass."""

_log = logging.getLogger("kaspan.agent")


Row = tuple[int, int, int]
"""What is deleted: id, spans, bytes; there may be more columns behind them."""


class Gone(NamedTuple):
    """What a transaction deleted, the last row's id too; `is_partial` if there may be more to delete."""

    spans: int = 0
    bytes: int = 0
    last_id: int = 0
    is_partial: bool = False


class Spool:
    """The spool in the file `path`, holding at most `max_bytes` of spans.

    Every method may be called from any thread; each blocks for one transaction, with the disk's flush.
    `full` is why it takes nothing just now, None while it does. `dropped` counts spans that are gone
    undelivered, by reason. `latest_us` is the latest time that a row may be stamped with.
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
        self.portions = Portions()
        self.database = Database(path, STEPS, self._load, self._count_damaged)

    def _load(self, connection: sqlite3.Connection) -> None:
        """Take over what is in the file; also of one that takes the place of a damaged one."""
        self._cursors: dict[str, int] = dict.fromkeys(self._senders, 0)
        self._cursors.update(read_cursors(connection))
        self._newest_id, self.spans, self.bytes, self.latest_us = connection.execute(
            "select coalesce(max(id), 0), coalesce(sum(spans), 0), coalesce(sum(bytes), 0),"
            " coalesce(max(received_us), 0) from batches"
        ).fetchone()
        self.dead_spans, self.dead_bytes, latest_us = connection.execute(
            "select count(*), coalesce(sum(length(span)), 0), coalesce(max(died_us), 0) from dead_letters"
        ).fetchone()
        whole("a number", self._newest_id, self.spans, self.bytes, self.latest_us)
        whole("a number of dead letters", self.dead_spans, self.dead_bytes, latest_us)
        self.latest_us = max(self.latest_us, latest_us)
        self._distrust_cursors()
        # An id is never used twice, although rows go: a cursor must not be ahead of what comes.
        used = (self._newest_id, *self._cursors.values())
        self._next_id = max(self._next_id, *(row_id + 1 for row_id in used))

    def _distrust_cursors(self) -> None:
        """Have a sender begin again that is ahead of all rows: a flipped bit would have them deleted."""
        for name, cursor in self._cursors.items():
            if cursor > self._newest_id > 0:
                _log.warning("the cursor of %s is damaged: all that is in the spool is sent to it", name)
                self._cursors[name] = 0

    def _count_damaged(self, path: str) -> None:
        """Count what a damaged file held that was moved aside: at the start, as far as that can be read."""
        lost = self.spans or waiting_spans(path)
        if lost:
            self.dropped[DAMAGED] += lost

    @property
    def senders(self) -> tuple[str, ...]:
        """Those that are registered; before that, those that the file knows."""
        return self._senders or tuple(self._cursors)

    def register(self, senders: Iterable[str]) -> None:
        """Say which senders there are: a batch is kept until all of them have passed it.

        A new one starts at the oldest batch there is. One that is no longer there keeps nothing any more:
        what only it had not passed is dropped, counted and logged.
        """
        self._senders = tuple(senders)
        removed = self._cursors.keys() - self._senders
        for name in self._senders:
            self._cursors.setdefault(name, 0)
        try:
            lost = self.database.run(lambda connection: self._save_senders(connection, removed))
        except SpoolFull as full:
            _log.debug("the senders are noted in memory only: %s", full)
            return
        for name, spans in lost.items():
            self._is_unsaved = True  # there may be batches now that all have passed
            del self._cursors[name]
            if spans:
                self.dropped[SENDER_REMOVED] += spans
                _log.warning("%s is no longer among the senders: %d spans it had not passed go", name, spans)

    @property
    def passed_id(self) -> int:
        """The id of the last batch that all senders have passed."""
        return min((self._cursors[name] for name in self._senders), default=0)

    def _save_senders(self, connection: sqlite3.Connection, removed: Iterable[str]) -> dict[str, int]:
        """Save who the senders are; how many spans each that was `removed` takes with it."""
        lost: dict[str, int] = {}
        for name in sorted(removed):
            (lost[name],) = connection.execute(
                "select coalesce(sum(spans), 0) from batches where id > ?"
                " and (sender = ? or (sender is null and id <= ?))",
                (self._cursors[name], name, self.passed_id),
            ).fetchone()
            connection.execute("delete from senders where name = ?", (name,))
        self._write_cursors(connection)
        return lost

    def cursor(self, sender: str) -> int:
        """The id of the last batch that a sender has passed."""
        return self._cursors[sender]

    def behind(self, sender: str) -> tuple[int, int | None]:
        """How far a sender is behind: batches not yet passed, and when the oldest came, in microseconds."""
        cursor = self._cursors[sender]
        oldest = self.database.run(lambda connection: read_oldest(connection, cursor))
        return (self._newest_id + 1 - oldest[0], oldest[1]) if oldest else (0, None)

    @property
    def damages(self) -> int:
        """How many times the file was found damaged and moved aside."""
        return self.database.damages

    def positions(self) -> dict[str, int]:
        """How far each ring was taken, by path, in bytes ever written."""
        return self.database.run(read_positions)

    def put(self, batches: Iterable[Batch], positions: Mapping[str, int]) -> None:
        """Store batches and the positions of their rings, all or nothing, safe on disk on return.

        Raises SpoolFull if they do not fit.
        """
        batches = tuple(batches)

        def work(connection: sqlite3.Connection) -> Gone:
            self.insert(connection, batches)
            connection.executemany("insert or replace into rings values (?, ?)", positions.items())
            # After the new rows: pages freed before would be written to the journal to be used again.
            return self._save_cursors(connection) if self._is_unsaved else Gone()

        def count(gone: Gone) -> None:
            self.inserted(batches)
            self._saved(gone)

        try:
            self.portions.run(lambda: self.database.run(work, count))
        except SpoolFull as full:
            self.full, self.is_disk_full = str(full), isinstance(full, DiskFull)
            raise
        self.full = None
        self.wake()

    def insert(
        self, connection: sqlite3.Connection, batches: Sequence[Batch], sender: str | None = None
    ) -> None:
        """Add batches in a transaction, for one sender or for all; `inserted` must follow when it is done.

        Raises SpoolFull if they do not fit.
        """
        added = sum(len(batch.body) for batch in batches)
        if added and self.bytes + added > self.max_bytes:
            raise SpoolFull(
                f"the spool holds {self.bytes} bytes of undelivered spans, and agent.spool.max_bytes is "
                f"{self.max_bytes}"
            )
        now_us = time.time_ns() // 1000
        self.latest_us = max(self.latest_us, now_us)
        connection.executemany(
            "insert into batches values (?, ?, ?, ?, ?, ?)",
            [
                (self._next_id + index, batch.spans, len(batch.body), now_us, batch.body, sender)
                for index, batch in enumerate(batches)
            ],
        )

    def inserted(self, batches: Sequence[Batch]) -> None:
        """Count batches that are safe on disk; called with the database's lock held."""
        self._next_id += len(batches)
        self._newest_id = self._next_id - 1
        self.bytes += sum(len(batch.body) for batch in batches)
        self.spans += sum(batch.spans for batch in batches)

    def forget(self, ring_paths: Iterable[str]) -> None:
        """Delete the positions of rings that are gone."""
        rows = [(path,) for path in ring_paths]
        self.database.run(lambda connection: connection.executemany("delete from rings where path = ?", rows))

    def read(self, after_id: int, max_bytes: int, sender: str | None = None) -> Message | None:
        """The next batches after a row, joined: one, and more while they fit; None if there is none.

        Those that are for another sender than `sender` are passed over.
        """
        return self.database.run(lambda connection: read_message(connection, after_id, max_bytes, sender))

    def advance(self, sender: str, last_id: int) -> None:
        """Note in memory that a sender has passed all batches up to `last_id`.

        The next `put` saves it in its own transaction, or `save` does; a kill before that repeats them.
        """
        with self.database.lock:  # between its work and its count nothing may be noted
            if last_id > self._cursors[sender]:
                self._cursors[sender] = last_id
                self._is_unsaved = True

    def save(self) -> None:
        """Save what was noted, unless a `put` has, and delete the batches that all senders have passed.

        Raises SpoolFull if the disk is: it stays noted in memory.
        """
        while self._is_unsaved:
            self.portions.run(lambda: self.database.run(self._save_cursors, self._saved))

    def _save_cursors(self, connection: sqlite3.Connection) -> Gone:
        """Save all cursors and delete what all have passed, a portion of it."""
        self._write_cursors(connection)
        limit = self.portions.rows
        passed = connection.execute(
            "select id, spans, bytes from batches where id <= ? order by id limit ?", (self.passed_id, limit)
        ).fetchall()
        return self.delete(connection, passed, limit)

    def delete(self, connection: sqlite3.Connection, found: Sequence[Row], limit: int) -> Gone:
        """Delete a portion of the rows that were found, of at most `limit`; `deleted` must follow."""
        for row in found:
            whole("a row", *row[:3])
        rows = self.portions.take(found, itemgetter(2))
        deleting = connection.executemany("delete from batches where id = ?", [row[:1] for row in rows])
        if rows and deleting.rowcount != len(rows):
            raise DamagedError("rows that were found are not there")
        return Gone(
            spans=sum(row[1] for row in rows),
            bytes=sum(row[2] for row in rows),
            last_id=rows[-1][0] if rows else 0,
            is_partial=len(rows) < len(found) or len(found) == limit,
        )

    def _write_cursors(self, connection: sqlite3.Connection) -> None:
        rows = [(name, self._cursors[name]) for name in self._senders]
        connection.executemany("insert or replace into senders values (?, ?)", rows)

    def _saved(self, gone: Gone) -> None:
        self._is_unsaved = self._is_unsaved and gone.is_partial
        self.deleted(gone)

    def deleted(self, gone: Gone) -> None:
        """Count batches that are no longer on disk; called with the database's lock held."""
        self.spans -= gone.spans
        self.bytes -= gone.bytes
        if gone.bytes:
            self.full = None  # until somebody finds otherwise
            if not self.bytes:
                self.database.shrink()

    def put_back(self, batches: Sequence[Batch], sender: str | None) -> None:
        """Store batches once more, for one sender or all, behind all others. Raises SpoolFull like `put`."""
        self.database.run(
            lambda connection: self.insert(connection, batches, sender), lambda _done: self.inserted(batches)
        )

    def pick(self, sender: str, place: float) -> bytes | None:
        """Return one of the batches that wait for a sender, from 0, the oldest, to 1, the newest."""
        first_id = self._cursors[sender] + 1
        row_id = first_id + int(place * max(0, self._newest_id - first_id))
        found = self.database.run(
            lambda connection: connection.execute(
                "select body from batches where id >= ? and (sender is null or sender = ?)"
                " order by id limit 1",
                (row_id, sender),
            ).fetchone()
        )
        return found[0] if found else None

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
        self.database.close()
