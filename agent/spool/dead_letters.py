"""Dead letters: spans that a target refused even alone. They are kept, looked at, sent again, or thrown away.

Statements are put together from fixed parts and numbers; texts are values.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kaspan.agent.batch import Batch
from kaspan.agent.spool.damage import DamagedError, whole
from kaspan.agent.spool.spool import Spool

Integer = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""What SQLite can hold, and no id or time is negative."""


_END_US = 253_402_300_800_000_000
"""The year 10000, which no calendar here knows."""


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter; `died_us` is when, in microseconds since the epoch. `span` is empty in lists."""

    id: int
    sender: str
    died_us: int
    reason: str
    size_bytes: int
    span: bytes = b""


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which letters: those with one of the `ids`, of a `sender`, that died before then; all that is given
    must fit, and nothing given fits all.
    """

    ids: tuple[Integer, ...] | None = None
    sender: str | None = None
    died_before_us: Integer | None = None


class DeadLetters:
    """The dead letters in a spool. Every method blocks for transactions, and raises SpoolFull like `put`."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def bury(self, sender: str, refused: Sequence[tuple[str, bytes]]) -> int:
        """Add spans that no server will ever take, each with the reason; return how many are kept.

        They may fill a tenth of the spool; those that do not fit are dropped, which is for the caller to say.
        """
        spool = self._spool
        now_us = time.time_ns() // 1000
        statement = "insert into dead_letters (sender, died_us, reason, span) values (?, ?, ?, ?)"

        def work(connection: sqlite3.Connection) -> list[bytes]:
            room = spool.max_bytes // 10 - spool.dead_bytes
            kept = []
            for reason, span in refused:
                if len(span) <= room:
                    room -= len(span)
                    connection.execute(statement, (sender, now_us, reason, span))
                    kept.append(span)
            return kept

        def count(kept: list[bytes]) -> None:
            spool.latest_us = max(spool.latest_us, now_us)
            spool.dead_spans += len(kept)
            spool.dead_bytes += sum(map(len, kept))

        return len(spool.database.run(work, count))

    def find(self, selection: Selection, after_id: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Return letters without their spans, oldest first: at most `limit` of those after an id."""
        where, values = _where(selection)
        columns = "id, sender, died_us, reason, length(span)"
        statement = f"select {columns} from dead_letters where id > ? and {where} order by id limit ?"  # noqa: S608

        def work(connection: sqlite3.Connection) -> list[DeadLetter]:
            last_id, letters = after_id, []
            for row in connection.execute(statement, (after_id, *values, limit)):
                letters.append(_letter(row, last_id))
                last_id = letters[-1].id
            return letters

        return self._spool.database.run(work)

    def get(self, letter_id: int) -> DeadLetter | None:
        """Return one letter with its span, None if there is none of this id."""
        statement = "select id, sender, died_us, reason, length(span), span from dead_letters where id = ?"

        def work(connection: sqlite3.Connection) -> DeadLetter | None:
            found = connection.execute(statement, (letter_id,)).fetchone()
            return _letter(found) if found else None

        return self._spool.database.run(work)

    def replay(self, selection: Selection) -> int:
        """Put letters back among the spans, each for the sender that refused it; return how many.

        Those of senders that are no longer there stay letters. Raises SpoolFull when the spool is; what was
        put back before stays so.
        """
        return sum(
            self._in_portions(
                msgspec.structs.replace(selection, sender=sender), partial(self._put_back, sender)
            )
            for sender in self._spool.senders
            if selection.sender in (None, sender)
        )

    def _put_back(self, sender: str, ids: Sequence[int]) -> int:
        def work(connection: sqlite3.Connection) -> list[Batch]:
            spans = _take(connection, ids)
            batches = [Batch(1, span) for span in spans]
            self._spool.insert(connection, batches, sender)
            return batches

        def count(batches: list[Batch]) -> None:
            self._spool.inserted(batches)
            self._count_gone([batch.body for batch in batches])

        batches = self._spool.database.run(work, count)
        self._spool.wake()
        return len(batches)

    def purge(self, selection: Selection, is_stopping: Callable[[], bool] = lambda: False) -> int:
        """Throw letters away for good, until `is_stopping`; return how many. Works on a full disk too."""

        def throw_away(ids: Sequence[int]) -> int:
            return len(self._spool.database.run(partial(_take, ids=ids), self._count_gone))

        return self._in_portions(selection, throw_away, is_stopping)

    def _in_portions(
        self,
        selection: Selection,
        act: Callable[[Sequence[int]], int],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Do something to the letters that there are now, by their ids, in a transaction for each portion."""
        where, values = _where(selection)
        statement = f"select id, length(span) from dead_letters where {where} order by id"  # noqa: S608
        found = self._spool.database.run(lambda connection: connection.execute(statement, values).fetchall())
        done = position = 0

        def attempt() -> tuple[int, int]:
            portion = self._spool.portions.take(found[position:], itemgetter(1))
            return len(portion), act([row[0] for row in portion])

        while position < len(found) and not is_stopping():
            rows, acted = self._spool.portions.run(attempt)
            position += rows
            done += acted
        return done

    def _count_gone(self, spans: Sequence[bytes]) -> None:
        self._spool.dead_spans -= len(spans)
        self._spool.dead_bytes -= sum(map(len, spans))


def _where(selection: Selection) -> tuple[str, list[int | str]]:
    """Return the condition of a selection in SQL, and the values for it."""
    conditions = ["1"]
    values: list[int | str] = []
    if selection.ids is not None:
        conditions.append(f"id in ({', '.join(map(str, selection.ids))})")
    if selection.sender is not None:
        conditions.append("sender = ?")
        values.append(selection.sender)
    if selection.died_before_us is not None:
        conditions.append("died_us < ?")
        values.append(selection.died_before_us)
    return " and ".join(conditions), values


def _take(connection: sqlite3.Connection, ids: Sequence[int]) -> list[bytes]:
    """Delete letters and return the spans of those that were still there."""
    # Written out: SQLite takes no more than 999 values in some builds.
    which = f"id in ({', '.join(map(str, ids))})"
    taken = connection.execute(f"select span from dead_letters where {which} order by id")  # noqa: S608
    spans = [span for (span,) in taken]
    deleted = connection.execute(f"delete from dead_letters where {which}").rowcount  # noqa: S608
    if deleted != len(spans) or any(type(span) is not bytes for span in spans):
        raise DamagedError("dead letters are not what they were")
    return spans


def _letter(row: Sequence[Any], last_id: int = 0) -> DeadLetter:
    """Make a letter of a row whose id must be larger than the last one. Raises DamagedError."""
    letter = DeadLetter(*row)
    whole("a dead letter", letter.id - last_id - 1, letter.died_us, letter.size_bytes)
    if letter.died_us > _END_US:
        raise DamagedError(f"a dead letter is of {letter.died_us}")
    if type(letter.sender) is not str or type(letter.reason) is not str or type(letter.span) is not bytes:
        raise DamagedError("a dead letter is not what it was")
    return letter
