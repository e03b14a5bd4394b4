"""One transaction of a spool: it changes rows, and the totals that the rows add up to."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

from kaspan.agent.batch import Batch
from kaspan.agent.spool.damage import DamagedError, check_integers
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.portions import Portions

DEAD_LETTERS_SHARE = 10
"""Dead letters may take the tenth part of agent.spool.max_bytes, in addition to it."""

BatchRow = tuple[int, int, int]
"""The columns of a batch that deleting needs: id, spans, bytes. More columns may follow them."""


class Totals(NamedTuple):
    """What the rows of a spool add up to: spans and bytes of batches, and of dead letters.

    `newest_id` is the id of the last batch, 0 without batches. The next batch gets `next_id`. No row has a
    time after `latest_us`, in microseconds since the epoch.
    """

    spans: int = 0
    bytes: int = 0
    dead_spans: int = 0
    dead_bytes: int = 0
    newest_id: int = 0
    next_id: int = 1
    latest_us: int = 0


class Deleted(NamedTuple):
    """The id of the last batch that was deleted, 0 for none; `is_partial` if there may be more to delete."""

    last_id: int = 0
    is_partial: bool = False


class Transaction:
    """Changes rows through `connection`, and with them what the spool knows about its rows.

    The spool takes this over when the transaction is committed: `totals`; `dropped`, the number of spans that
    go undelivered, by reason; `freed_bytes` of deleted batches; and `has_saved_cursors`, which says that all
    cursors are saved, and that the batches they have passed are deleted. When the transaction is rolled back
    all of it is forgotten, and another attempt begins with a new Transaction.
    """

    def __init__(
        self, connection: sqlite3.Connection, totals: Totals, portions: Portions, max_bytes: int
    ) -> None:
        self.connection = connection
        self.totals = totals
        self.dropped: defaultdict[str, int] = defaultdict(int)
        self.freed_bytes = 0
        self.has_saved_cursors = False
        self._portions = portions
        self._max_bytes = max_bytes

    def insert_batches(self, batches: Sequence[Batch], sender: str | None = None) -> None:
        """Add batches for one sender, or for all with None. Raises SpoolFull if they do not fit."""
        totals = self.totals
        added_bytes = sum(len(batch.body) for batch in batches)
        if added_bytes and totals.bytes + added_bytes > self._max_bytes:
            raise SpoolFull(
                f"the spool holds {totals.bytes} bytes of undelivered spans, and agent.spool.max_bytes is "
                f"{self._max_bytes}"
            )
        now_us = time.time_ns() // 1000
        next_id = totals.next_id
        self.connection.executemany(
            "insert into batches values (?, ?, ?, ?, ?, ?)",
            [
                (next_id + index, batch.spans, len(batch.body), now_us, batch.body, sender)
                for index, batch in enumerate(batches)
            ],
        )
        self.totals = Totals(  # _replace() takes three times as long
            totals.spans + sum(batch.spans for batch in batches),
            totals.bytes + added_bytes,
            totals.dead_spans,
            totals.dead_bytes,
            next_id + len(batches) - 1 if batches else totals.newest_id,
            next_id + len(batches),
            max(totals.latest_us, now_us),
        )

    def delete_batches(self, found: Sequence[BatchRow], limit: int) -> Deleted:
        """Delete the first of the batches a query with this `limit` found, as many as Portions allows."""
        for row in found:
            check_integers("a row", *row[:3])
        rows = self._portions.take(found, itemgetter(2))
        deleting = self.connection.executemany("delete from batches where id = ?", [row[:1] for row in rows])
        if rows and deleting.rowcount != len(rows):
            raise DamagedError("batches that a query found cannot be deleted")
        spans, size, *rest = self.totals
        for row in rows:
            spans -= row[1]
            size -= row[2]
        self.freed_bytes += self.totals.bytes - size
        self.totals = Totals(spans, size, *rest)
        is_partial = len(rows) < len(found) or len(found) == limit
        return Deleted(rows[-1][0] if rows else 0, is_partial)

    def add_dead_letters(self, sender: str, refused: Sequence[tuple[str, bytes]]) -> int:
        """Add spans that a sender's target refused, each after the reason; return how many were added.

        Spans that do not fit into the dead letters' share of the spool are left out.
        """
        now_us = time.time_ns() // 1000
        totals = self.totals
        room_bytes = self._max_bytes // DEAD_LETTERS_SHARE - totals.dead_bytes
        added_spans = added_bytes = 0
        for reason, span in refused:
            if added_bytes + len(span) <= room_bytes:
                self.connection.execute(
                    "insert into dead_letters (sender, died_us, reason, span) values (?, ?, ?, ?)",
                    (sender, now_us, reason, span),
                )
                added_spans += 1
                added_bytes += len(span)
        self.totals = totals._replace(
            dead_spans=totals.dead_spans + added_spans,
            dead_bytes=totals.dead_bytes + added_bytes,
            latest_us=max(totals.latest_us, now_us),
        )
        return added_spans

    def delete_dead_letters(self, ids: Sequence[int]) -> list[bytes]:
        """Delete dead letters, and return the spans of those that were still there."""
        # The ids are part of the statement: some builds of SQLite take no more than 999 parameters.
        where = f"id in ({', '.join(map(str, ids))})"
        found = self.connection.execute(f"select span from dead_letters where {where} order by id")  # noqa: S608
        spans = [span for (span,) in found]
        deleted = self.connection.execute(f"delete from dead_letters where {where}").rowcount  # noqa: S608
        if deleted != len(spans) or any(type(span) is not bytes for span in spans):
            raise DamagedError("dead letters that a query found cannot be deleted")
        self.totals = self.totals._replace(
            dead_spans=self.totals.dead_spans - len(spans),
            dead_bytes=self.totals.dead_bytes - sum(map(len, spans)),
        )
        return spans

    def drop(self, reason: str, spans: int) -> None:
        """Count spans that are deleted undelivered."""
        if spans:
            self.dropped[reason] += spans

    def set_latest_us(self, latest_us: int) -> None:
        """Note that no row has a later time than this any more."""
        self.totals = self.totals._replace(latest_us=latest_us)
