"""kaspan.agent.senders.store: when spans are committed, and what the spool may forget."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.senders.base import Delivered, Failed, Refused, Sender
from kaspan.agent.senders.delivery import Delivery
from kaspan.agent.senders.stats import SenderStats
from kaspan.agent.senders.store import (
    COMMIT_INTERVAL_S,
    MAX_HELD_BYTES,
    MAX_HELD_SPANS,
    TIDY_INTERVAL_S,
    StoreSender,
)
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.spool import Spool
from support.fake_store import FULL, SETTINGS, FakeStore
from support.ring_writer import span


class Bench:
    """A sender to a fake store, and a clock that tests turn."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.store = FakeStore()
        self.sender = StoreSender(SETTINGS, self.store, lambda: self.now_s)

    def send(self, last_id: int, spans: int = 1) -> None:
        body = SEPARATOR.join(span(last_id * 100_000 + number) for number in range(spans))
        assert self.sender.send(body, last_id) == Delivered()


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_spans_are_committed_together_after_a_second(bench: Bench) -> None:
    """A commit waits for the disk; the spool holds the spans meanwhile."""
    bench.send(1)
    bench.now_s += COMMIT_INTERVAL_S * 0.9
    bench.send(2)
    assert bench.sender.idle() is None
    assert (bench.store.committed, bench.sender.passed(2)) == ([], 0)
    bench.now_s += COMMIT_INTERVAL_S * 0.1
    assert bench.sender.idle() == Delivered()
    assert (len(bench.store.committed), bench.store.commits, bench.sender.passed(2)) == (2, 1, 2)
    assert sum(bench.sender.commit_s.counts) == 1


def test_spans_that_keep_coming_are_committed_too(bench: Bench) -> None:
    """Where the agent always has the next message, `send` commits what is due first."""
    bench.send(1)
    bench.now_s += COMMIT_INTERVAL_S
    bench.send(2)
    assert len(bench.store.committed) == 1
    assert bench.sender.passed(2) == 1


def test_memory_for_held_spans_is_bounded(bench: Bench) -> None:
    """Very many spans are committed before their second is over."""
    bench.send(1, MAX_HELD_SPANS)
    assert bench.sender.idle() == Delivered()
    assert len(bench.store.committed) == MAX_HELD_SPANS
    bench.send(2, MAX_HELD_SPANS)
    bench.send(3)
    assert len(bench.store.committed) == 2 * MAX_HELD_SPANS


def test_large_spans_are_committed_earlier(bench: Bench) -> None:
    """A few of the largest would take as much memory as very many."""
    large = span(1, MAX_HELD_BYTES // 4)
    for row_id in (1, 2, 3):
        assert bench.sender.send(large, row_id) == Delivered()
        assert bench.sender.idle() is None
    assert bench.sender.send(large, 4) == Delivered()
    assert bench.sender.idle() == Delivered()
    assert bench.sender.send(large, 5) == Delivered()
    assert bench.sender.idle() is None


def test_rows_without_spans_that_are_held_are_passed(bench: Bench) -> None:
    """Rows whose spans are dead letters are given up too."""
    assert bench.sender.passed(7) == 7
    bench.send(8)
    assert bench.sender.passed(9) == 0
    bench.sender.close()
    assert bench.sender.passed(9) == 9


def test_no_span_is_accepted_while_nothing_can_be_committed(bench: Bench) -> None:
    """What is held stays held, the spool keeps the rest, and everything goes on once there is room."""
    bench.store.full = FULL
    bench.send(1)
    bench.now_s += COMMIT_INTERVAL_S
    assert bench.sender.idle() == Failed(str(FULL))
    assert bench.sender.problem == str(FULL)
    assert bench.sender.send(span(2), 2) == Failed(str(FULL))
    assert (bench.store.held_spans, bench.sender.passed(2)) == (1, 0)
    bench.store.full = None
    assert bench.sender.send(span(2), 2) == Delivered()
    assert (bench.sender.problem, bench.sender.passed(2)) == ("", 1)
    assert bench.sender.close() == Delivered()
    assert bench.sender.passed(2) == 2


def test_full_disk_is_not_tried_more_often_than_a_commit(bench: Bench) -> None:
    """Each attempt compresses all that is held."""
    bench.store.full = FULL
    bench.send(1, MAX_HELD_SPANS)
    for _ in range(8):
        bench.sender.idle()
        bench.now_s += COMMIT_INTERVAL_S / 4
    assert bench.store.commits == 2


def test_full_disk_at_the_end_keeps_the_rows(bench: Bench) -> None:
    """The next agent sends them again."""
    bench.store.full = FULL
    bench.send(1)
    assert bench.sender.close() == Failed(str(FULL))
    assert bench.sender.passed(1) == 0


def test_store_keeps_its_limits_while_no_spans_come(bench: Bench) -> None:
    """Spans become too old at night as well."""
    for _ in range(5):
        assert bench.sender.idle() is None
        bench.now_s += TIDY_INTERVAL_S / 2
    assert bench.store.commits == 2


@pytest.mark.parametrize("garbage", [b"{garbage", b"\xff\xfe", b"[" * 100_000])
def test_what_cannot_be_decoded_is_refused(bench: Bench, garbage: bytes) -> None:
    """A failure would be tried again for ever."""
    assert isinstance(bench.sender.send(garbage, 1), Refused)
    bench.send(2)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(str(tmp_path / "spool.db"), 1 << 30)
    spool.register(["store /store"])
    yield spool
    spool.close()


def deliver(spool: Spool, sender: Sender, stats: SenderStats | None = None) -> None:
    delivery = Delivery(spool, sender, 10_000, stats=stats)
    delivery.drain()
    delivery.run()


def test_spool_keeps_what_is_not_committed(bench: Bench, spool: Spool) -> None:
    """An agent that ends on a full disk loses nothing, and the next one stores it."""
    for number in range(5):
        spool.put([Batch(1, span(number))], {})
    bench.store.full = FULL
    deliver(spool, bench.sender)
    assert spool.totals.spans == 5
    again = Bench()
    deliver(spool, again.sender)
    assert again.store.committed == [f"{number:016x}" for number in range(5)]
    assert spool.totals.spans == 0


def test_failed_commit_without_further_spans_is_a_failure_of_the_sender(bench: Bench, spool: Spool) -> None:
    """An operator sees it although nothing is being sent."""
    spool.put([Batch(1, span(1))], {})
    bench.store.full = FULL
    stats = SenderStats(lambda: bench.now_s)
    deliver(spool, bench.sender, stats)
    assert stats.failing_since_s is not None
    assert stats.last_error == str(FULL)


def test_span_that_cannot_be_decoded_is_a_dead_letter_and_the_others_are_stored(
    bench: Bench, spool: Spool
) -> None:
    """It holds up nothing, and an operator can see it."""
    spool.put([Batch(3, SEPARATOR.join([span(1), b"{broken", span(2)]))], {})
    deliver(spool, bench.sender)
    assert sorted(bench.store.committed) == [f"{number:016x}" for number in (1, 2)]
    (letter,) = DeadLetters(spool).find(Selection(), 0, 10)
    assert letter.reason.startswith("cannot be stored")
