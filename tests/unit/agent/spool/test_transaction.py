"""kaspan.agent.spool.transaction: the totals are what the rows on disk add up to, whatever happens."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.agent.batch import Batch
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.expiry import Expiry
from kaspan.agent.spool.spool import EXPIRED, Spool
from kaspan.agent.spool.transaction import Totals, Transaction

SENDERS = ["zipkin", "kafka"]
MAX_BYTES = 4096


def put(spool: Spool, number: int) -> None:
    spool.put([Batch(number % 3 + 1, b"x" * (number + 1))] * (number % 4), {})


def put_back(spool: Spool, number: int) -> None:
    spool.put_back([Batch(1, b"y" * number)], SENDERS[number % 2])


def add_dead_letters(spool: Spool, number: int) -> None:
    DeadLetters(spool).add(SENDERS[number % 2], [("HTTP 400", b"z" * (number % 90))] * (number % 9))


def replay(spool: Spool, number: int) -> None:
    DeadLetters(spool).replay(Selection(sender=SENDERS[number % 2]))


def purge(spool: Spool, number: int) -> None:
    DeadLetters(spool).purge(Selection(ids=tuple(range(number % 20))))


def deliver(spool: Spool, number: int) -> None:
    for index, sender in enumerate(SENDERS):
        spool.advance(sender, min(spool.totals.newest_id, number + index))
    spool.save()


def expire(spool: Spool, number: int) -> None:
    ahead_s = 10.0 if number % 5 == 0 else 0.0
    Expiry(spool, lambda: time.time() + ahead_s, lambda: 0.0).check(5.0)


def fail(spool: Spool, number: int) -> None:
    """Fail at the end of a transaction, as a full disk does."""

    def work(transaction: Transaction) -> None:
        transaction.insert_batches([Batch(7, b"lost")])
        transaction.add_dead_letters("zipkin", [("HTTP 400", b"lost")])
        transaction.drop(EXPIRED, 7)
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(SpoolFull):
        spool.transact(work)


ACTIONS: list[Callable[[Spool, int], None]] = [
    *(put, put_back, add_dead_letters, replay, purge, deliver, expire, fail)
]


def rows(path: Path) -> Totals:
    """Add up the rows of a closed spool; without the ids and times, which rows that are gone had too."""
    connection = sqlite3.connect(path)
    spans, size = connection.execute(
        "select coalesce(sum(spans), 0), coalesce(sum(length(body)), 0) from batches"
    ).fetchone()
    dead_spans, dead_bytes = connection.execute(
        "select count(*), coalesce(sum(length(span)), 0) from dead_letters"
    ).fetchone()
    connection.close()
    return Totals(spans, size, dead_spans, dead_bytes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 600)), max_size=25))
def test_totals_are_what_the_rows_on_disk_add_up_to(
    steps: list[tuple[Callable[[Spool, int], None], int]],
) -> None:
    """After any work, finished, refused or failed, the totals match the rows."""
    with TemporaryDirectory() as directory:
        path = Path(directory) / "spool.db"
        spool = Spool(str(path), MAX_BYTES)
        spool.register(SENDERS)
        for act, number in steps:
            with suppress(SpoolFull):
                act(spool, number)
        totals = spool.totals
        spool.close()
        assert totals[:4] == rows(path)[:4]
        assert totals.bytes <= MAX_BYTES
        assert totals.dead_bytes <= MAX_BYTES // 10


def test_transaction_that_fails_changes_no_total(tmp_path: Path) -> None:
    """Neither rows nor counters: what is rolled back was never there."""
    spool = Spool(str(tmp_path / "spool.db"), MAX_BYTES)
    spool.register(SENDERS)
    put(spool, 3)
    before = spool.totals
    fail(spool, 0)
    assert (spool.totals, dict(spool.dropped)) == (before, {})
    spool.close()


def test_nobody_but_the_spool_changes_its_totals(tmp_path: Path) -> None:
    """One owner: what others want to change they ask for in a transaction."""
    spool = Spool(str(tmp_path / "spool.db"), MAX_BYTES)
    with pytest.raises(AttributeError):
        spool.totals = Totals()  # type: ignore[misc]
    with pytest.raises(AttributeError):
        spool.totals.spans = 1  # type: ignore[misc]
    spool.close()
