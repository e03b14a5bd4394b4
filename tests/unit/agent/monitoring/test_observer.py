"""kaspan.agent.monitoring.observer: what is wrong with an agent, and what it counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from kaspan.agent import status as reasons
from kaspan.agent.batch import Batch
from kaspan.agent.http.messages import Request
from kaspan.agent.monitoring.observer import Observer
from kaspan.agent.monitoring.routes import MonitoringRoutes
from kaspan.agent.processors.chain import Tally
from kaspan.agent.receivers.ring_directory import RingDirectory
from kaspan.agent.receivers.ring_receiver import SCAN_S, RingReceiver
from kaspan.agent.senders.base import Delivered, Outcome, Sender
from kaspan.agent.senders.delivery import Delivery
from kaspan.agent.senders.stats import SenderStats
from kaspan.agent.senders.store import StoreSender
from kaspan.agent.spool.database import DiskFull, SpoolFull
from kaspan.agent.spool.spool import Spool
from kaspan.store.span_store import StoreTotals
from support.fake_store import FULL, SETTINGS, FakeStore
from support.ring_writer import span

MAX_BYTES = 1024 * 1024


class FakeSender(Sender):
    name = "zipkin http://zipkin:9411/api/v2/spans"

    def send(self, spans: bytes, last_id: int) -> Outcome:
        return Delivered()


class FakePart:
    name = "ring receiver"
    has_failed = False


class Parts:
    """An agent's parts that do not run, seen by an observer whose clock tests turn."""

    def __init__(self, path: Path) -> None:
        self.now_s = 1000.0
        self.spool = Spool(str(path / "spool.db"), MAX_BYTES)
        self.spool.register([FakeSender.name])
        self.directory = path / "rings"
        self.receiver = RingReceiver(
            [RingDirectory(str(self.directory))], self.spool, 10_000, 1.0, lambda: self.now_s
        )
        self.stats = SenderStats(lambda: self.now_s, lambda: self.now_s)
        self.delivery = Delivery(self.spool, FakeSender(), 10_000, stats=self.stats)
        self.part = FakePart()
        self.tally = Tally()
        self.observer = Observer(
            self.spool,
            self.receiver,
            None,
            [self.delivery],
            [self.part],
            lambda: self.tally,
            clock_s=lambda: self.now_s,
            wall_clock_s=lambda: self.now_s,
        )

    def add_store(self) -> StoreSender:
        """Have the agent keep spans in a store as well."""
        sender = StoreSender(SETTINGS, FakeStore(), lambda: self.now_s)
        self.spool.register([FakeSender.name, sender.name])
        deliveries = [self.delivery, Delivery(self.spool, sender, 10_000)]
        clocks = (lambda: self.now_s, lambda: self.now_s)
        self.observer = Observer(
            self.spool, self.receiver, None, deliveries, [], lambda: self.tally, sender, *clocks
        )
        return sender

    def reasons(self) -> list[str]:
        return [problem.reason for problem in self.observer.problems()]

    def fill(self, error: SpoolFull) -> None:
        """Have the spool refuse a batch with this error."""

        def refuse(*arguments: object) -> None:
            raise error

        self.spool.transact = refuse  # type: ignore[method-assign]
        with pytest.raises(type(error)):
            self.spool.put([Batch(1, b"{}")], {})


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path)
    yield parts
    parts.spool.close()


def test_agent_of_which_nothing_is_wrong_is_ready(parts: Parts) -> None:
    """No problem, and spans are taken."""
    observed = parts.observer.observe()
    assert observed.problems == []
    assert observed.state == "ready"
    assert observed.is_accepting


def test_spool_that_is_full_takes_nothing(parts: Parts) -> None:
    """The limit of the settings is reached, and what comes is refused."""
    parts.fill(SpoolFull("the spool holds too much"))
    assert parts.reasons() == [reasons.SPOOL_FULL]
    assert not parts.observer.observe().is_accepting


def test_disk_that_is_full_is_told_from_a_full_spool(parts: Parts) -> None:
    """Another remedy: not the settings but the disk."""
    parts.fill(DiskFull("spool.db cannot be written: disk is full"))
    (problem,) = parts.observer.problems()
    assert problem.reason == reasons.DISK_FULL
    assert "disk is full" in problem.text
    assert not parts.observer.observe().is_accepting


def test_sender_that_fails_for_a_minute_degrades_an_agent_that_still_takes_spans(parts: Parts) -> None:
    """Zipkin may be restarted without a word; for longer, somebody should look, while the spool fills."""
    parts.stats.failed("HTTP 503 Service Unavailable", parts.now_s)
    parts.now_s += reasons.FAILING_S
    parts.receiver.tick()
    assert parts.reasons() == []
    parts.now_s += 1
    (problem,) = parts.observer.problems()
    assert problem.reason == reasons.SENDER_FAILING
    assert problem.text == f"{FakeSender.name} has failed for 61 s: HTTP 503 Service Unavailable"
    assert parts.observer.observe().is_accepting
    parts.stats.delivered(parts.now_s)
    assert parts.reasons() == []


def test_part_that_failed_is_named(parts: Parts) -> None:
    """A dead thread takes nothing any more."""
    parts.part.has_failed = True
    (problem,) = parts.observer.problems()
    assert problem.reason == reasons.PART_FAILED
    assert problem.text.startswith("ring receiver has failed")
    assert not parts.observer.observe().is_accepting


def test_ring_receiver_that_does_not_come_back_is_stalled(parts: Parts) -> None:
    """Alive is not enough: a disk may hold a thread for ever."""
    parts.receiver.tick()
    parts.now_s += reasons.STALLED_S + 1
    assert parts.reasons() == [reasons.RECEIVER_STALLED]
    parts.receiver.tick()
    assert parts.reasons() == []


def test_damaged_spool_that_was_moved_aside_is_a_problem_until_it_is_removed(
    parts: Parts, tmp_path: Path
) -> None:
    """The old spool holds undelivered spans, also after the agent was started again."""
    aside = tmp_path / "spool.db.damaged-1732459200000000"
    aside.touch()
    (tmp_path / "spool.db.damaged-1732459200000000-journal").touch()
    (problem,) = parts.observer.problems()
    assert problem.reason == reasons.SPOOL_DAMAGED
    assert str(aside) in problem.text
    assert parts.observer.observe().is_accepting
    aside.unlink()
    assert parts.reasons() == []


def test_ring_directory_that_is_not_read_is_named(parts: Parts, tmp_path: Path) -> None:
    """Applications write to the directory, and the agent does not read it."""
    parts.directory.symlink_to(tmp_path)
    parts.now_s += SCAN_S
    parts.receiver.tick()
    (problem,) = parts.observer.problems()
    assert problem.reason == reasons.RING_DIR_REFUSED
    assert str(parts.directory) in problem.text


def test_stopping_agent_is_not_ready(parts: Parts) -> None:
    """What comes now goes to the next agent."""
    parts.observer.is_stopping = True
    assert parts.reasons() == [reasons.STOPPING]
    assert not parts.observer.observe().is_accepting


def test_lag_and_ages_are_of_now(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the oldest span waits, and when the target last took anything."""
    monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000_000)
    parts.spool.put([Batch(3, b"{}")], {})
    parts.stats.delivered(parts.now_s)
    parts.now_s += 30
    parts.stats.failed("TimeoutError", parts.now_s)
    parts.now_s += 10
    observed = parts.observer.observe()
    (sender,) = observed.senders
    assert (sender.behind_batches, sender.behind_s, observed.spool.oldest_age_s) == (1, 40.0, 40.0)
    assert (sender.last_success_age_s, sender.last_error_age_s, sender.failing_s) == (40.0, 10.0, 10.0)
    assert observed.spool.spans == 3


def test_every_drop_has_a_reason(parts: Parts) -> None:
    """By a processor's rule, for a redaction that failed, by damage, or for want of room: each by itself."""
    parts.tally.dropped.update({"drop": 2})
    parts.tally.refused.update({"redact": 3, "unreadable": 4})
    parts.tally.failed.update({"add_tags": 5})
    parts.spool.dropped.update({"spool_damaged": 6, "spool_expired": 7, "sender_removed": 8})
    parts.stats.dead_lettered(kept=0, dropped=1)
    observed = parts.observer.observe()
    assert observed.dropped_spans == {
        "processor_drop": 2,
        "processor_redact_failed": 3,
        "unreadable": 4,
        "spool_damaged": 6,
        "spool_expired": 7,
        "sender_removed": 8,
        "dead_letters_full": 1,
    }
    assert observed.failed_spans == {"add_tags": 5}


def test_drops_that_must_not_happen_are_shown_before_they_do(parts: Parts) -> None:
    """A counter starts at 0: an alert on its increase would miss the first one if it started at 1."""
    dropped = parts.observer.observe().dropped_spans
    assert dropped == dict.fromkeys(dropped, 0)
    assert {"dead_letters_full", "spool_damaged", "spool_expired", "sender_removed", "unreadable"} == set(
        dropped
    )


def test_text_that_is_not_utf8_is_shown_all_the_same(parts: Parts) -> None:
    """/metrics and /status answer whatever an error or a name of a file holds."""
    parts.stats.failed("HTTP \udcff \ud800", parts.now_s)
    parts.tally.dropped["\udcff"] = 1
    operation = MonitoringRoutes(parts.observer)
    request = Request("GET", "/", "", {}, True)
    status = asyncio.run(operation.status(request))
    assert msgspec.json.decode(status.body)["senders"][0]["last_error"] == "HTTP ? ?"
    metrics = asyncio.run(operation.metrics(request))
    assert b'reason="processor_?"' in metrics.body


def test_store_that_cannot_be_written_is_a_problem_and_spans_are_taken(parts: Parts) -> None:
    """They wait in the spool, which may be on the same disk and says so itself then."""
    sender = parts.add_store()
    assert isinstance(sender.store, FakeStore)
    sender.store.full = FULL
    sender.send(span(1), 1)
    sender.close()
    (problem,) = parts.observer.problems()
    assert problem.reason == reasons.STORE_FAILING
    assert str(FULL) in problem.text
    assert parts.observer.observe().is_accepting
    sender.store.full = None
    sender.close()
    assert parts.reasons() == []


def test_damaged_partition_is_a_problem_until_it_is_removed(parts: Parts) -> None:
    """Its spans are missing, and nothing else says so."""
    sender = parts.add_store()
    sender.store.totals = StoreTotals(0, 0, 0, 2, 0, 0.0)
    (problem,) = parts.observer.problems()
    assert problem.reason == reasons.STORE_DAMAGED
    assert "/store/*.damaged" in problem.text


def test_store_is_in_the_status_if_there_is_one(parts: Parts) -> None:
    """With its limit, and the age of what is oldest in it."""
    assert parts.observer.observe().store is None
    parts.add_store().store.totals = StoreTotals(7, 4096, 2, 0, 11, parts.now_s - 60)
    store = parts.observer.observe().store
    assert store is not None
    assert (store.path, store.spans, store.bytes, store.max_bytes) == ("/store", 7, 4096, 1 << 30)
    assert (store.partitions, store.deleted_spans, store.oldest_age_s) == (2, 11, 60)
