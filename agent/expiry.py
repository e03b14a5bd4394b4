"""The age limit of a spool: spans and dead letters that are older go, undelivered."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from itertools import takewhile

from kaspan.agent.database import SpoolFull
from kaspan.agent.letters import DeadLetters, Selection
from kaspan.agent.spool import EXPIRED, ROWS_DELETED_AT_ONCE, Gone, Spool

_log = logging.getLogger("kaspan.agent")


class Expiry:
    """Drops what has waited in a spool for too long."""

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

    def check(self, max_age_s: float | None) -> None:
        """Drop what is older, count and log it; with None nothing is. Looks at most every second."""
        if max_age_s is None or self._clock_s() < self._next_s:
            return
        self._next_s = self._clock_s() + max(1.0, min(60.0, max_age_s / 100))
        oldest_us = int((self._wall_clock_s() - max_age_s) * 1e6)
        try:
            spans = self._drop_batches(oldest_us)
            letters = self._letters.purge(Selection(died_before_us=oldest_us))
        except SpoolFull as full:
            _log.debug("what is too old stays: %s", full)
            return
        if spans or letters:
            _log.warning(
                "%d spans and %d dead letters are older than agent.spool.max_age_s, %g s, and were dropped",
                spans,
                letters,
                max_age_s,
            )

    def _drop_batches(self, received_before_us: int) -> int:
        """Drop batches that came before then; return how many spans some sender had not passed."""
        spool = self._spool

        def work(connection: sqlite3.Connection) -> tuple[Gone, int]:
            rows = connection.execute(
                "select id, spans, bytes, received_us from batches order by id limit ?",
                (ROWS_DELETED_AT_ONCE,),
            )
            old = list(takewhile(lambda row: row[3] < received_before_us, rows))
            if not old:
                return Gone(), 0
            connection.execute("delete from batches where id <= ?", (old[-1][0],))
            spans, size = sum(row[1] for row in old), sum(row[2] for row in old)
            undelivered = sum(row[1] for row in old if row[0] > spool.passed_id)
            return Gone(spans, size, len(old) == ROWS_DELETED_AT_ONCE), undelivered

        def count(result: tuple[Gone, int]) -> None:
            spool.deleted(result[0])
            if result[1]:
                spool.dropped[EXPIRED] += result[1]

        dropped = 0
        while True:
            gone, undelivered = spool.database.run(work, count)
            dropped += undelivered
            if not gone.is_partial:
                return dropped
