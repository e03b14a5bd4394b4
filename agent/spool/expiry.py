"""The age limit of a spool: spans and dead letters that are older go, undelivered."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import takewhile
from typing import TypeVar

from kaspan.agent.spool.damage import MAX_INTEGER, check_integers
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.spool import EXPIRED, Spool
from kaspan.agent.spool.transaction import Transaction

LOOK_S = 1.0
"""How often it is looked whether the file is still there, and whether it is time for what is too old."""

_Result = TypeVar("_Result")

_log = logging.getLogger("kaspan.agent")


class Expiry:
    """Drops what has waited in a spool for too long, from `run` until `stop`.

    Rows that are stamped in the future, since the clock was wrong, are no younger than what came after them.
    """

    def __init__(
        self,
        spool: Spool,
        wall_clock_s: Callable[[], float] = time.time,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool = spool
        self._letters = DeadLetters(spool)
        self._wall_clock_s = wall_clock_s
        self._clock_s = clock_s
        self._next_s = clock_s()
        self._stopping = threading.Event()

    def run(self, max_age_s: Callable[[], float | None]) -> None:
        """Drop what is older, now and then, and keep the spool's file where it is.

        The limit in seconds is asked for each time; None is no limit.
        """
        while not self._stopping.wait(LOOK_S):
            with suppress(SpoolFull):  # said where somebody wants to write
                self._spool.keep_files()
            self.check(max_age_s())

    def stop(self) -> None:
        """Have `run` return after the transaction that it is in. Any thread may call it."""
        self._stopping.set()

    def check(self, max_age_s: float | None) -> None:
        """Drop what is older, count and log it; with None nothing is. Looks at most every second."""
        if max_age_s is None or self._clock_s() < self._next_s:
            return
        self._next_s = self._clock_s() + max(1.0, min(60.0, max_age_s / 100))
        now_us = int(self._wall_clock_s() * 1e6)
        oldest_us = max(0, now_us - int(max_age_s * 1e6))
        spans = letters = 0
        try:
            self._restamp(now_us)
            spans = self._drop_batches(oldest_us)
            letters = self._letters.purge(Selection(died_before_us=oldest_us), self._stopping.is_set)
        except SpoolFull as full:
            _log.debug("what is too old stays: %s", full)
        if spans or letters:
            _log.warning(
                "%d spans and %d dead letters are older than agent.spool.max_age_s, %g s, and were dropped",
                spans,
                letters,
                max_age_s,
            )

    def _restamp(self, now_us: int) -> None:
        """Give what is stamped in the future the time of what came after it; dead letters, in no order, now.

        Else what lies behind it would never be looked at.
        """
        spool = self._spool
        if spool.totals.latest_us <= now_us:
            return
        newest_us, row_id = now_us, MAX_INTEGER
        while row_id and not self._stopping.is_set():
            newest_us, row_id = self._in_portion(partial(_restamp_batches, newest_us, row_id))
        letter_id = 0
        while letter_id >= 0 and not self._stopping.is_set():
            letter_id = self._in_portion(partial(_restamp_letters, now_us, letter_id))

    def _in_portion(self, work: Callable[[Transaction, int], _Result]) -> _Result:
        """Do `work` in one transaction, on as many rows as that may change."""
        spool = self._spool
        return spool.portions.run(
            lambda: spool.transact(lambda transaction: work(transaction, spool.portions.rows))
        )

    def _drop_batches(self, received_before_us: int) -> int:
        """Drop batches that came before then; return how many spans some sender had not passed."""
        spool = self._spool

        def work(transaction: Transaction, limit: int) -> tuple[int, bool]:
            rows = transaction.connection.execute(
                "select id, spans, bytes, received_us from batches order by id limit ?", (limit,)
            ).fetchall()
            for row in rows:
                check_integers("a row", *row)
            old = list(takewhile(lambda row: row[3] < received_before_us, rows))
            deleted = transaction.delete_batches(old, limit)
            undelivered = sum(row[1] for row in old if spool.passed_id < row[0] <= deleted.last_id)
            transaction.drop(EXPIRED, undelivered)
            return undelivered, deleted.is_partial

        dropped, is_partial = 0, True
        while is_partial and not self._stopping.is_set():
            undelivered, is_partial = self._in_portion(work)
            dropped += undelivered
        return dropped


def _restamp_batches(newest_us: int, before_id: int, transaction: Transaction, limit: int) -> tuple[int, int]:
    """Restamp a portion, the newest first; return the latest time for those before it, and its last id.

    The id is 0 when there are no more.
    """
    rows = transaction.connection.execute(
        "select id, received_us from batches where id < ? order by id desc limit ?", (before_id, limit)
    ).fetchall()
    changes = []
    for row_id, received_us in rows:
        check_integers("a row", row_id, received_us)
        newest_us = min(newest_us, received_us)
        if received_us > newest_us:
            changes.append((newest_us, row_id))
    transaction.connection.executemany("update batches set received_us = ? where id = ?", changes)
    return newest_us, rows[-1][0] if len(rows) == limit else 0


def _restamp_letters(now_us: int, after_id: int, transaction: Transaction, limit: int) -> int:
    """Restamp a portion; return its last id, -1 when there are no more."""
    rows = transaction.connection.execute(
        "select ?, id from dead_letters where id > ? and died_us > ? order by id limit ?",
        (now_us, after_id, now_us, limit),
    ).fetchall()
    transaction.connection.executemany("update dead_letters set died_us = ? where id = ?", rows)
    if len(rows) < limit:
        transaction.restamp(now_us)
        return -1
    last_id: int = rows[-1][1]
    return last_id
