"""kaspan.agent.spool.expiry: what waits longer than agent.spool.max_age_s goes, and is counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaspan.agent.batch import Batch
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.expiry import Expiry
from kaspan.agent.spool.portions import FEWEST_ROWS, MOST_ROWS
from kaspan.agent.spool.spool import EXPIRED, Spool
from support.ring_writer import span

MAX_AGE_S = 1000.0


class Clock:
    """Both clocks, as many seconds ahead of the machine's as the test says."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def wall_s(self) -> float:
        return time.time() + self.ahead_s

    def monotonic_s(self) -> float:
        return self.ahead_s


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(str(tmp_path / "spool.db"), 1 << 30)
    spool.register(["zipkin", "kafka"])
    yield spool
    spool.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def expiry(spool: Spool, clock: Clock) -> Expiry:
    return Expiry(spool, clock.wall_s, clock.monotonic_s)


def test_what_is_not_too_old_stays(spool: Spool, expiry: Expiry, clock: Clock) -> None:
    """Up to the limit nothing is dropped."""
    spool.put([Batch(1, span(1))], {})
    DeadLetters(spool).add("zipkin", [("HTTP 400", span(2))])
    clock.ahead_s = MAX_AGE_S - 100
    expiry.check(MAX_AGE_S)
    assert (spool.totals.spans, spool.totals.dead_spans, dict(spool.dropped)) == (1, 1, {})


def test_without_a_limit_nothing_goes(spool: Spool, expiry: Expiry, clock: Clock) -> None:
    """Spans wait for as long as it takes."""
    spool.put([Batch(1, span(1))], {})
    clock.ahead_s = 1e9
    expiry.check(None)
    assert spool.totals.spans == 1


def test_what_is_too_old_goes_and_is_said(
    spool: Spool, expiry: Expiry, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans that some sender has not passed are counted; dead letters go as well; one line says it all."""
    for number in range(100):
        spool.put([Batch(2, span(number))], {})
    DeadLetters(spool).add("zipkin", [("HTTP 400", span(2))])
    spool.advance("zipkin", 100)
    spool.advance("kafka", 40)
    clock.ahead_s = MAX_AGE_S + 10
    expiry.check(MAX_AGE_S)
    assert (spool.totals.spans, spool.totals.bytes, spool.totals.dead_spans) == (0, 0, 0)
    assert spool.dropped == {EXPIRED: 120}
    assert [record.getMessage() for record in caplog.records] == [
        "120 spans and 1 dead letters are older than agent.spool.max_age_s, 1000 s, and were dropped"
    ]
    assert DeadLetters(spool).find(Selection()) == []


def test_senders_go_on_after_what_was_dropped(spool: Spool, expiry: Expiry, clock: Clock) -> None:
    """Cursors stay right, and what was noted of them is saved all the same."""
    spool.put([Batch(1, b"old")], {})
    spool.advance("zipkin", 1)
    clock.ahead_s = MAX_AGE_S + 10
    expiry.check(MAX_AGE_S)
    spool.put([Batch(1, b"new")], {})
    for sender in ("zipkin", "kafka"):
        message = spool.read(spool.cursor(sender), 1 << 20, sender)
        assert message is not None
        assert message.body == b"new"
        spool.advance(sender, message.last_id)
    spool.save()
    assert spool.totals.spans == 0


def test_rows_of_the_future_keep_nothing_from_its_age_limit(
    spool: Spool, expiry: Expiry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans stored while the clock was ahead count as no younger than later spans, or than now."""
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: 4_000_000_000_000_000_000)
        spool.put([Batch(1, span(1))], {})
        DeadLetters(spool).add("zipkin", [("HTTP 400", span(2))])
    spool.put([Batch(1, span(3))], {})
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: 4_000_000_000_000_000_000)
        spool.put([Batch(1, span(4))], {})
    clock.ahead_s = MAX_AGE_S - 100
    expiry.check(MAX_AGE_S)
    assert (spool.totals.spans, spool.totals.dead_spans) == (3, 1)
    clock.ahead_s = MAX_AGE_S + 100
    expiry.check(MAX_AGE_S)
    assert (spool.totals.spans, spool.totals.dead_spans) == (1, 1)
    clock.ahead_s = 3 * MAX_AGE_S
    expiry.check(MAX_AGE_S)
    assert (spool.totals.spans, spool.totals.dead_spans) == (0, 0)


def test_many_rows_of_the_future_keep_nobody_waiting(
    spool: Spool, expiry: Expiry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock was ahead for a whole outage: times are set right in transactions of bounded size."""
    with monkeypatch.context() as ahead:
        ahead.setattr(time, "time_ns", lambda: 4_000_000_000_000_000_000)
        spool.put([Batch(1, span(number)) for number in range(3 * MOST_ROWS)], {})
        DeadLetters(spool).add("zipkin", [("HTTP 400", b"{}")] * 3 * MOST_ROWS)
    changed = []
    run = spool.database.run

    def counted(*arguments: Any) -> Any:
        before = spool.database._connection.total_changes
        result = run(*arguments)
        changed.append(spool.database._connection.total_changes - before)
        return result

    monkeypatch.setattr(spool.database, "run", counted)
    expiry.check(MAX_AGE_S)
    assert sum(changed) == 6 * MOST_ROWS
    assert max(changed) == MOST_ROWS


def test_expiry_ends_when_it_is_told_to_however_much_is_too_old(
    spool: Spool, expiry: Expiry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million rows on a slow disk do not keep the agent from stopping: it waits for one transaction."""
    for first in range(0, 400, 100):
        spool.put([Batch(1, span(first + number)) for number in range(100)], {})
        DeadLetters(spool).add("zipkin", [("HTTP 400", span(first))])
    spool.portions.rows = FEWEST_ROWS
    clock.ahead_s = MAX_AGE_S + 10
    transact = spool.transact

    def stop(work: Any) -> Any:
        result = transact(work)
        expiry.stop()
        return result

    monkeypatch.setattr(spool, "transact", stop)
    expiry.check(MAX_AGE_S)
    assert (spool.totals.spans, spool.totals.dead_spans) == (400 - FEWEST_ROWS, 4)
    expiry.run(lambda: MAX_AGE_S)  # returns


def test_many_old_rows_go_in_few_transactions(
    spool: Spool, expiry: Expiry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush of the disk costs as much for one row as for many."""
    spool.put([Batch(1, span(number)) for number in range(3000)], {})
    clock.ahead_s = MAX_AGE_S + 10
    transactions = 0
    run = spool.database.run

    def counted(*arguments: Any) -> Any:
        nonlocal transactions
        transactions += 1
        return run(*arguments)

    monkeypatch.setattr(spool.database, "run", counted)
    expiry.check(MAX_AGE_S)
    assert spool.totals.spans == 0
    assert transactions < 8


def test_clock_that_is_set_back_drops_nothing(spool: Spool, expiry: Expiry, clock: Clock) -> None:
    """Spans of the future are young."""
    spool.put([Batch(1, span(1))], {})
    clock.wall_s = lambda: 0.0  # type: ignore[method-assign]
    clock.ahead_s = 100
    expiry.check(MAX_AGE_S)
    assert spool.totals.spans == 1
