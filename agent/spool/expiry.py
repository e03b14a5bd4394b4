"""The age limit of a spool: older spans and dead letters are dropped."""

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

CHECK_S = 1.0
"""How often the agent checks that the file is still there, and whether to look for old rows."""

_Result = TypeVar("_Result")

_log = logging.getLogger("kaspan.agent")


class Expiry:
    """Drops what has waited in a spool for too long, from `run` until `stop`.

    A row with a time in the future, from when the clock was wrong, counts as old as the rows after it.
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
        """Drop old rows every now and then, and write the spool's file again if it was removed.

        `max_age_s` is called each time; it returns the limit in seconds, or None for no limit.
        """
        while not self._stopping.wait(CHECK_S):
            with suppress(SpoolFull):  # the next writer reports it
                self._spool.keep_files()
            self.check(max_age_s())

    def stop(self) -> None:
        """Make `run` return after the current transaction. Any thread may call it."""
        self._stopping.set()

    def check(self, max_age_s: float | None) -> None:
        """Drop what is older than the limit, count and log it; None does nothing. At most once a second."""
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
            _log.debug("spans that are too old are not dropped yet: %s", full)
        if spans or letters:
            _log.warning(
                "%d spans and %d dead letters are older than agent.spool.max_age_s, %g s, and were dropped",
                spans,
                letters,
                max_age_s,
            )

    def _restamp(self, now_us: int) -> None:
        """Correct times in the future: a batch gets the time of the batch after it, a dead letter `now_us`.

        Otherwise the search for old batches, which goes by id, would stop at such a batch.
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
        """Drop batches older than that; return how many of their spans some sender had not passed."""
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
    """Correct the times of a portion, newest first; return the latest time for older rows, and the last id.

    The id is 0 after the last portion.
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
    """Correct the times of a portion; return its last id, -1 after the last portion."""
    rows = transaction.connection.execute(
        "select ?, id from dead_letters where id > ? and died_us > ? order by id limit ?",
        (now_us, after_id, now_us, limit),
    ).fetchall()
    transaction.connection.executemany("update dead_letters set died_us = ? where id = ?", rows)
    if len(rows) < limit:
        transaction.set_latest_us(now_us)
        return -1
    last_id: int = rows[-1][1]
    return last_id
