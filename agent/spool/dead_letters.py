"""Dead letters: spans that a target refuses even alone. Users list them, replay them, or purge them.

SQL is built from constants and integers only; strings are bound parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kaspan.agent.batch import Batch
from kaspan.agent.spool.damage import DamagedError, check_integers
from kaspan.agent.spool.spool import Spool
from kaspan.agent.spool.transaction import Transaction

Integer = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""An id or a time: not negative, and small enough for SQLite."""


_END_US = 253_402_300_800_000_000
"""The year 10000, which datetime cannot represent."""


class DeadLetter(msgspec.Struct, frozen=True):
    """One dead letter, refused at `died_us`, in microseconds since the epoch. Lists leave out `span`."""

    id: int
    sender: str
    died_us: int
    reason: str
    size_bytes: int
    span: bytes = b""


class Selection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Selects dead letters by `ids`, `sender` and time of death. All given conditions must hold.

    Without any condition all dead letters are selected.
    """

    ids: tuple[Integer, ...] | None = None
    sender: str | None = None
    died_before_us: Integer | None = None


class DeadLetters:
    """The dead letters in a spool. Every method blocks for transactions, and may raise SpoolFull."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    def add(self, sender: str, refused: Sequence[tuple[str, bytes]]) -> int:
        """Keep spans that a sender's target refused, each after the reason; return how many are kept.

        All dead letters may take a tenth of agent.spool.max_bytes. The caller counts the spans that do not
        fit as dropped, and logs them.
        """
        return self._spool.transact(lambda transaction: transaction.add_dead_letters(sender, refused))

    def find(self, selection: Selection, after_id: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Return at most `limit` dead letters after an id, oldest first, without their spans."""
        where, values = _where(selection)
        columns = "id, sender, died_us, reason, length(span)"
        statement = f"select {columns} from dead_letters where id > ? and {where} order by id limit ?"  # noqa: S608

        def work(transaction: Transaction) -> list[DeadLetter]:
            last_id, letters = after_id, []
            for row in transaction.connection.execute(statement, (after_id, *values, limit)):
                letters.append(_letter(row, last_id))
                last_id = letters[-1].id
            return letters

        return self._spool.transact(work)

    def get(self, letter_id: int) -> DeadLetter | None:
        """Return one dead letter with its span, None if the id does not exist."""
        statement = "select id, sender, died_us, reason, length(span), span from dead_letters where id = ?"

        def work(transaction: Transaction) -> DeadLetter | None:
            found = transaction.connection.execute(statement, (letter_id,)).fetchone()
            return _letter(found) if found else None

        return self._spool.transact(work)

    def replay(self, selection: Selection) -> int:
        """Put dead letters back among the spans, each for the sender that it is of; return how many.

        Dead letters of senders that are not configured any more stay. Raises SpoolFull when the spool is
        full; what was put back before that is delivered.
        """
        return sum(
            self._in_portions(
                msgspec.structs.replace(selection, sender=sender), partial(self._put_back, sender)
            )
            for sender in self._spool.senders
            if selection.sender in (None, sender)
        )

    def _put_back(self, sender: str, ids: Sequence[int]) -> int:
        def work(transaction: Transaction) -> int:
            spans = transaction.delete_dead_letters(ids)
            transaction.insert_batches([Batch(1, span) for span in spans], sender)
            return len(spans)

        spans = self._spool.transact(work)
        self._spool.wake()
        return spans

    def purge(self, selection: Selection, is_stopping: Callable[[], bool] = lambda: False) -> int:
        """Delete dead letters, until `is_stopping`; return how many. Works on a full disk too."""

        def throw_away(ids: Sequence[int]) -> int:
            return self._spool.transact(lambda transaction: len(transaction.delete_dead_letters(ids)))

        return self._in_portions(selection, throw_away, is_stopping)

    def _in_portions(
        self,
        selection: Selection,
        act: Callable[[Sequence[int]], int],
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> int:
        """Call `act` with portions of the ids of the selected dead letters; return the sum of its results."""
        where, values = _where(selection)
        statement = f"select id, length(span) from dead_letters where {where} order by id"  # noqa: S608
        found = self._spool.transact(
            lambda transaction: transaction.connection.execute(statement, values).fetchall()
        )
        done = position = 0

        def attempt() -> tuple[int, int]:
            portion = self._spool.portions.take(found[position:], itemgetter(1))
            return len(portion), act([row[0] for row in portion])

        while position < len(found) and not is_stopping():
            rows, acted = self._spool.portions.run(attempt)
            position += rows
            done += acted
        return done


def _where(selection: Selection) -> tuple[str, list[int | str]]:
    """Return the SQL condition of a selection, and its parameters."""
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


def _letter(row: Sequence[Any], last_id: int = 0) -> DeadLetter:
    """Make a dead letter of a row, whose id must be above `last_id`. Raises DamagedError."""
    letter = DeadLetter(*row)
    check_integers("a dead letter", letter.id - last_id - 1, letter.died_us, letter.size_bytes)
    if letter.died_us > _END_US:
        raise DamagedError(f"a dead letter has the time {letter.died_us}")
    if type(letter.sender) is not str or type(letter.reason) is not str or type(letter.span) is not bytes:
        raise DamagedError("a dead letter has a value of a wrong type")
    return letter
