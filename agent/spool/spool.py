"""The spool: spans wait here on disk from when the agent accepts them until every sender has passed them.

The package's docstring has the invariants.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from kaspan.agent.batch import Batch
from kaspan.agent.spool.damage import check_integers
from kaspan.agent.spool.database import Database, DiskFull, SpoolFull
from kaspan.agent.spool.pages import count_waiting_spans
from kaspan.agent.spool.portions import Portions
from kaspan.agent.spool.tables import STEPS, Message, read_cursors, read_message, read_oldest, read_positions
from kaspan.agent.spool.transaction import Totals, Transaction

__all__ = ["DAMAGED", "EXPIRED", "SENDER_REMOVED", "Message", "Spool"]

DAMAGED = "spool_damaged"
"""The reason for dropping the spans of a damaged file; `kaspan agent spool recover` can put them back."""
EXPIRED = "spool_expired"
"""The reason for dropping spans that waited longer than agent.spool.max_age_s."""
SENDER_REMOVED = "sender_removed"
"""The reason for dropping spans that only a sender which is no longer configured had not passed."""

_Result = TypeVar("_Result")

_log = logging.getLogger("kaspan.agent")


class Spool:
    """The spool in the file `path`, with at most `max_bytes` of undelivered spans.

    Every method may be called from any thread. Each blocks for one transaction, which the disk flushes.
    `full` is the reason why the spool accepts no spans now, None while it accepts them. `dropped` counts
    spans that are deleted undelivered, by reason. Raises SpoolError if the file cannot be used or another
    agent uses it.
    """

    def __init__(self, path: str, max_bytes: int) -> None:
        self.path = path
        self.max_bytes = max_bytes
        self.arrived = threading.Condition()
        self.full: str | None = None
        self.is_disk_full = False
        self.dropped: Counter[str] = Counter()
        self._totals = Totals()
        self._senders: tuple[str, ...] = ()
        self._is_unsaved = False
        self._put_back_ids = (0, 0)
        """Of the batches after the first of these ids, up to the last, each is put back or deleted."""
        self.portions = Portions()
        self.database = Database(path, STEPS, self._load, self._count_damaged)

    def _load(self, connection: sqlite3.Connection) -> None:
        """Read cursors and totals from the file: at the start, and from a new file after a damaged one."""
        self._cursors: dict[str, int] = dict.fromkeys(self._senders, 0)
        self._cursors.update(read_cursors(connection))
        newest_id, spans, size, received_us = connection.execute(
            "select coalesce(max(id), 0), coalesce(sum(spans), 0), coalesce(sum(bytes), 0),"
            " coalesce(max(received_us), 0) from batches"
        ).fetchone()
        dead_spans, dead_bytes, died_us = connection.execute(
            "select count(*), coalesce(sum(length(span)), 0), coalesce(max(died_us), 0) from dead_letters"
        ).fetchone()
        check_integers("a number", newest_id, spans, size, received_us)
        check_integers("a number of dead letters", dead_spans, dead_bytes, died_us)
        self._distrust_cursors(newest_id)
        next_id = max(self._totals.next_id, newest_id + 1, *(row_id + 1 for row_id in self._cursors.values()))
        self._totals = Totals(
            spans, size, dead_spans, dead_bytes, newest_id, next_id, max(received_us, died_us)
        )

    def _distrust_cursors(self, newest_id: int) -> None:
        """Reset a cursor that is ahead of all batches: after a flipped bit it would have them deleted."""
        for name, cursor in self._cursors.items():
            if cursor > newest_id > 0:
                _log.warning("the cursor of %s is damaged: everything in the spool is sent to it again", name)
                self._cursors[name] = 0

    def _count_damaged(self, path: str) -> None:
        """Count the spans of a damaged file that was moved to `path`, as far as they can be read."""
        lost = self._totals.spans or count_waiting_spans(path)
        if lost:
            self.dropped[DAMAGED] += lost

    @property
    def totals(self) -> Totals:
        """What the rows on disk add up to. Only `transact` changes it."""
        return self._totals

    def transact(self, work: Callable[[Transaction], _Result]) -> _Result:
        """Do `work` in one transaction, on disk on return, and take over the totals that it leaves.

        `work` may be called again, with another Transaction, if the file turns out to be damaged or removed.
        Raises SpoolFull if the disk cannot be written.
        """

        def attempt(connection: sqlite3.Connection) -> tuple[_Result, Transaction]:
            transaction = Transaction(connection, self._totals, self.portions, self.max_bytes)
            return work(transaction), transaction

        result, _ = self.database.run(attempt, self._committed)
        return result

    def _committed(self, outcome: tuple[object, Transaction]) -> None:
        """Take over what a transaction has changed; called with the database's lock held."""
        transaction = outcome[1]
        self._totals = transaction.totals
        if transaction.dropped:
            self.dropped.update(transaction.dropped)
        self._is_unsaved = self._is_unsaved and not transaction.has_saved_cursors
        if transaction.freed_bytes:
            self.full = None  # until the next `put` finds it full
            if not self._totals.bytes:
                self.database.shrink()

    @property
    def senders(self) -> tuple[str, ...]:
        """The registered senders; before `register`, those in the file."""
        return self._senders or tuple(self._cursors)

    def register(self, senders: Iterable[str]) -> None:
        """Set the senders: a batch is kept until all of them have passed it.

        A new sender starts at the oldest batch. What only a removed sender had not passed is dropped, counted
        and logged.
        """
        self._senders = tuple(senders)
        removed = self._cursors.keys() - self._senders
        for name in self._senders:
            self._cursors.setdefault(name, 0)
        try:
            lost = self.database.run(lambda connection: self._save_senders(connection, removed))
        except SpoolFull as full:
            _log.debug("the list of senders is not saved yet: %s", full)
            return
        for name, spans in lost.items():
            self._is_unsaved = True  # now all senders may have passed some batches
            del self._cursors[name]
            if spans:
                self.dropped[SENDER_REMOVED] += spans
                _log.warning(
                    "sender %s is not configured any more: %d spans that only it had not passed are dropped",
                    name,
                    spans,
                )

    @property
    def passed_id(self) -> int:
        """The id of the last batch that all senders have passed."""
        return min((self._cursors[name] for name in self._senders), default=0)

    def _save_senders(self, connection: sqlite3.Connection, removed: Iterable[str]) -> dict[str, int]:
        """Save the senders; return how many spans only each of the `removed` ones had not passed."""
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
        """How many batches a sender has not passed, and when the oldest came, in microseconds (epoch)."""
        cursor = self._cursors[sender]
        oldest = self.database.run(lambda connection: read_oldest(connection, cursor))
        return (self._totals.newest_id + 1 - oldest[0], oldest[1]) if oldest else (0, None)

    @property
    def damages(self) -> int:
        """How many times the file was found damaged and moved aside."""
        return self.database.damages

    def positions(self) -> dict[str, int]:
        """How far each ring was read, by its key, in bytes ever written to it."""
        return self.database.run(read_positions)

    def put(self, batches: Iterable[Batch], positions: Mapping[str, int]) -> None:
        """Store batches and the positions of their rings, all or nothing, safe on disk on return.

        Raises SpoolFull if they do not fit.
        """
        batches = tuple(batches)

        def work(transaction: Transaction) -> None:
            transaction.insert_batches(batches)
            connection = transaction.connection
            if positions:
                connection.executemany("insert or replace into rings values (?, ?)", positions.items())
            # After the new rows: pages freed before would be written to the journal to be used again.
            if self._is_unsaved:
                self._save_cursors(transaction)

        try:
            self.portions.run(partial(self.transact, work))
        except SpoolFull as full:
            self.full, self.is_disk_full = str(full), isinstance(full, DiskFull)
            raise
        self.full = None
        self.wake()

    def forget(self, ring_paths: Iterable[str]) -> None:
        """Delete the positions of rings that are gone."""
        rows = [(path,) for path in ring_paths]
        self.database.run(lambda connection: connection.executemany("delete from rings where path = ?", rows))

    def read(self, after_id: int, max_bytes: int, sender: str | None = None) -> Message | None:
        """Return the next batches after an id, joined: one, and more while they fit; None without any.

        Batches for another sender than `sender` are skipped.
        """
        return self.database.run(lambda connection: read_message(connection, after_id, max_bytes, sender))

    def advance(self, sender: str, last_id: int) -> None:
        """Note in memory that a sender has passed all batches up to `last_id`.

        The next `put` saves it in its own transaction, or `save` does. After a kill before that the batches
        are sent again.
        """
        with self.database.lock:  # a transaction saves what it has read, and nothing newer
            if last_id > self._cursors[sender]:
                self._cursors[sender] = last_id
                self._is_unsaved = True

    def save(self) -> None:
        """Save the noted cursors, unless a `put` has, and delete the batches that all senders have passed.

        Raises SpoolFull if the disk is full; the cursors stay noted in memory.
        """
        while self._is_unsaved:
            self.portions.run(partial(self.transact, self._save_cursors))

    def _save_cursors(self, transaction: Transaction) -> None:
        """Save all cursors, and delete a portion of the batches that all senders have passed."""
        self._write_cursors(transaction.connection)
        limit = self.portions.rows
        passed = transaction.connection.execute(
            "select id, spans, bytes from batches where id <= ? order by id limit ?", (self.passed_id, limit)
        ).fetchall()
        transaction.has_saved_cursors = not transaction.delete_batches(passed, limit).is_partial

    def _write_cursors(self, connection: sqlite3.Connection) -> None:
        rows = [(name, self._cursors[name]) for name in self._senders]
        connection.executemany("insert or replace into senders values (?, ?)", rows)

    def put_back(self, batches: Sequence[Batch], sender: str | None) -> None:
        """Store batches after all others, for one sender, or for all with None. Raises SpoolFull."""
        self.transact(lambda transaction: transaction.insert_batches(batches, sender))

    def has_more(self, after_id: int) -> bool:
        """Whether there is a batch after a row."""
        return self._totals.newest_id > after_id

    def has_untried(self, after_id: int) -> bool:
        """Whether there is a batch after a row that no sender has put back."""
        # What is known to be put back stays so: new batches follow all others.
        first, last = self._put_back_ids
        is_known = first <= after_id < last
        from_id = last if is_known else after_id
        newest_id = self._totals.newest_id
        # A batch that was put back is for one sender. typeof() does not read the column behind the body.
        statement = "select id from batches where id > ? and typeof(sender) = 'null' order by id limit 1"
        found = self.database.run(lambda connection: connection.execute(statement, (from_id,)).fetchone())
        self._put_back_ids = first if is_known else after_id, found[0] - 1 if found else newest_id
        return found is not None

    def pick(self, sender: str, place: float) -> bytes | None:
        """Return a batch that waits for a sender, None without any; `place` goes from 0, the oldest, to 1."""
        first_id = self._cursors[sender] + 1
        row_id = first_id + int(place * max(0, self._totals.newest_id - first_id))
        found = self.database.run(
            lambda connection: connection.execute(
                "select body from batches where id >= ? and (sender is null or sender = ?)"
                " order by id limit 1",
                (row_id, sender),
            ).fetchone()
        )
        return found[0] if found else None

    def wake(self) -> None:
        """Wake all threads that wait for spans, so that they notice that the agent stops."""
        with self.arrived:
            self.arrived.notify_all()

    def wait(self, after_id: int, timeout_s: float) -> bool:
        """Wait for a batch after an id or a call of `wake`; False if neither came in time."""
        with self.arrived:
            return self.has_more(after_id) or self.arrived.wait(timeout_s)

    def keep_files(self) -> None:
        """Write the file again if somebody has removed it. Raises SpoolFull if it cannot be written."""
        self.database.keep_files()

    def close(self) -> None:
        """Close the file, and release it for another agent."""
        self.database.close()
