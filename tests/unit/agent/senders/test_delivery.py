"""kaspan.agent.senders.delivery: every span to its target, or to the dead letters."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.batch import SEPARATOR, Batch, split
from kaspan.agent.senders.backoff import FIRST_S, LONGEST_S, Backoff
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender
from kaspan.agent.senders.delivery import DEAD_LETTERS_LOG_S, PUT_BACK_S, SAVE_S, Delivery
from kaspan.agent.senders.refusals import RefusalJudge
from kaspan.agent.senders.stats import SenderStats
from kaspan.agent.spool.database import DiskFull, SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.spool import Message, Spool
from support.ring_writer import span
from support.waiting import wait_until

MAX_BYTES = 10_000


class FakeSender(Sender):
    """Does with each message what the test says; keeps what it has taken."""

    name = "fake"
    idle_s = 0.01

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.attempts = 0
        self.judge: Callable[[list[bytes]], Outcome] = lambda spans: Delivered()
        self.holds_from: int | None = None
        self.closed = False

    def send(self, spans: bytes, last_id: int) -> Outcome:
        self.attempts += 1
        outcome = self.judge(split(spans))
        if isinstance(outcome, Delivered):
            self.taken += split(spans)
        return outcome

    def passed(self, last_id: int) -> int:
        return last_id if self.holds_from is None else min(last_id, self.holds_from - 1)

    def close(self) -> None:
        self.closed = True
        self.holds_from = None


class FixedBackoff(Backoff):
    """Counts, and waits for exactly what was asked."""

    def next_s(self, asked_s: float = 0.0) -> float:
        return asked_s


class Bench:
    """A spool, a fake sender and the delivery between them; waiting takes no time."""

    def __init__(self, path: Path) -> None:
        self.spool = Spool(str(path / "spool.db"), 1 << 30)
        self.spool.register(["fake"])
        self.sender = FakeSender()
        self.pauses: list[float] = []
        self.delivery = Delivery(self.spool, self.sender, MAX_BYTES, FixedBackoff(), self.pauses.append)

    def put(self, *spans: bytes) -> None:
        self.spool.put([Batch(len(spans), SEPARATOR.join(spans))], {})

    def deliver(self) -> None:
        """Deliver all there is, and end."""
        self.delivery.drain()
        self.delivery.run()

    def fail_times(self, times: int, failure: Failed) -> None:
        """Have the sender fail so often, then take everything."""
        outcomes: Iterator[Outcome] = iter([failure] * times)
        self.sender.judge = lambda spans: next(outcomes, Delivered())

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Run the loop in a thread until a condition holds, then drain it."""
        thread = threading.Thread(target=self.delivery.run)
        thread.start()
        try:
            wait_until(condition, "the delivery", every_s=0.005)
        finally:
            self.delivery.drain()
            thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.spool.close()


def said(caplog: pytest.LogCaptureFixture, level: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == level]


def test_spans_are_delivered_in_order_and_deleted(bench: Bench) -> None:
    """What the target has taken is no longer in the spool."""
    expected = [span(number) for number in range(300)]
    for first in range(0, 300, 10):
        bench.put(*expected[first : first + 10])
    bench.deliver()
    assert bench.sender.taken == expected
    assert bench.delivery.stats.sent_spans == 300
    assert bench.spool.totals.spans == 0
    assert bench.sender.closed


def test_failed_message_is_sent_again_until_it_is_taken(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A target that is away is tried for ever; its failure and its return are said once each."""
    caplog.set_level("INFO")
    bench.put(span(1))
    bench.fail_times(50, Failed("Connection refused"))
    bench.run_until(lambda: bench.sender.taken == [span(1)])
    assert bench.sender.attempts == 51
    assert said(caplog, "WARNING") == ["fake: Connection refused; spans wait in the spool"]
    assert said(caplog, "INFO") == ["fake: works again"]


@pytest.mark.parametrize("mistake", [lambda spans: 1 / 0, lambda spans: None])
def test_sender_that_breaks_its_contract_is_tried_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, mistake: Callable[[list[bytes]], Outcome]
) -> None:
    """What it raises, or what it forgets to return, is a failure: never a delivery, nor the agent's end."""
    outcomes = iter([mistake] * 3)
    bench.put(span(1))

    def judge(spans: list[bytes]) -> Outcome:
        judging = next(outcomes, None)
        return judging(spans) if judging else Delivered()

    bench.sender.judge = judge
    bench.run_until(lambda: bench.sender.taken == [span(1)])
    assert bench.sender.attempts == 4
    assert len(said(caplog, "WARNING")) == 1


def test_sender_whose_other_methods_fail_keeps_its_spans(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A row is given up only by a sender that could say so."""

    def fail(last_id: int) -> int:
        raise RuntimeError("bug")

    bench.sender.passed = fail  # type: ignore[method-assign]
    bench.put(span(1))
    bench.deliver()
    assert bench.spool.totals.spans == 1
    assert said(caplog, "WARNING") == ["fake: RuntimeError: bug; spans wait in the spool"]


def test_sender_that_is_down_keeps_only_what_it_has_not_passed(tmp_path: Path) -> None:
    """Each sender has its own cursor: one goes on while another fails, and rows stay until both have them."""
    spool = Spool(str(tmp_path / "spool.db"), 1 << 30)
    up, down = FakeSender(), FakeSender()
    up.name, down.name = "up", "down"
    down.judge = lambda spans: Failed("Connection refused")
    spool.register([up.name, down.name])
    for number in range(5):
        spool.put([Batch(1, span(number))], {})
    for sender in (up, down):
        delivery = Delivery(spool, sender, MAX_BYTES, FixedBackoff(), lambda seconds: None)
        delivery.drain()
        delivery.run()
    assert (len(up.taken), down.taken, spool.totals.spans) == (5, [], 5)
    down.judge = lambda spans: Delivered()
    again = Delivery(spool, down, MAX_BYTES)
    again.drain()
    again.run()
    assert down.taken == up.taken
    assert spool.totals.spans == 0
    spool.close()


def test_target_is_left_alone_for_as_long_as_it_asked(bench: Bench) -> None:
    """Retry-After is honoured."""
    bench.put(span(1))
    bench.fail_times(1, Failed("busy", retry_after_s=17.0))
    bench.run_until(lambda: bool(bench.sender.taken))
    assert bench.pauses == [17.0]


def refusing(*refused: bytes) -> Callable[[list[bytes]], Outcome]:
    """Refuse what holds one of these spans, as Zipkin does."""
    return lambda part: Refused("HTTP 400: bad id") if set(refused) & set(part) else Delivered()


class SlowTarget:
    """Refuses what holds a bad span, and takes 0.01 s for each answer, on the delivery's clock.

    `taken_after_s`: when the span `watched` came in a message with others.
    """

    def __init__(self, bench: Bench, bad: list[bytes], watched: bytes) -> None:
        self.now_s = 0.0
        self.taken_after_s: list[float] = []
        self._judge = refusing(*bad)
        self._watched = watched
        bench.delivery.stats.clock_s = lambda: self.now_s
        bench.sender.judge = self

    def __call__(self, part: list[bytes]) -> Outcome:
        self.now_s += 0.01
        if self._watched in part and len(part) > 1:
            self.taken_after_s.append(self.now_s)
        return self._judge(part)


def letters(bench: Bench) -> list[bytes]:
    """Give the dead letters' spans."""
    dead_letters = DeadLetters(bench.spool)
    found = [dead_letters.get(letter.id) for letter in dead_letters.find(Selection(), limit=10_000)]
    return [letter.span for letter in found if letter is not None]


def test_refused_span_is_found_and_the_others_are_delivered(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """A message is split until the span that offends is alone: a dead letter with the target's reason."""
    spans = [span(number) for number in range(16)]
    bench.put(*spans)
    bench.sender.judge = refusing(span(11))
    bench.deliver()
    assert list(dict.fromkeys(bench.sender.taken)) == spans[:11] + spans[12:]
    assert bench.delivery.stats.dead_spans == 1
    assert letters(bench) == [span(11)]
    (warning,) = said(caplog, "WARNING")
    assert warning.startswith(
        "fake refuses 1 spans (HTTP 400: bad id): 1 are kept as dead letters; the first begins b'{"
    )
    assert bench.spool.totals.spans == 0


def test_spans_that_break_zipkins_rules_are_found_without_asking_for_each(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """20,000 of them among good ones cost others milliseconds, one line of the log, and few flushes."""
    bad = [b'{"traceId":"%016x","id":"no id"}' % number for number in range(1, 4001)]
    good = [span(number) for number in range(1, 4001)]
    for first in range(0, 4000, 50):
        bench.put(
            *[
                one
                for pair in zip(bad[first : first + 50], good[first : first + 50], strict=True)
                for one in pair
            ]
        )
    bench.sender.judge = refusing(*bad)
    bench.deliver()
    assert bench.sender.taken == good
    assert letters(bench) == bad
    assert bench.sender.attempts == 3 * 4000 / 50
    assert (bench.delivery.stats.sent_spans, bench.delivery.stats.dead_spans) == (4000, 4000)
    assert len(said(caplog, "WARNING")) == 1


def test_spans_that_only_zipkin_refuses_are_sent_to_a_target_that_takes_them(bench: Bench) -> None:
    """Zipkin's rules are not every target's: what it takes is delivered."""
    odd = [b'{"traceId":"%016x","id":"no id"}' % number for number in range(1, 4)]
    bench.put(*odd, span(1), span(2))
    bench.sender.judge = refusing(span(1))
    bench.deliver()
    assert set(bench.sender.taken) == {*odd, span(2)}
    assert letters(bench) == [span(1)]


def test_target_that_refuses_everything_is_broken_and_no_span_is_to_blame(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans wait, it is a failure, and one warning says so; when it takes spans again all are delivered."""
    spans = [span(number) for number in range(1, 41)]
    bench.put(*spans)
    refused: list[int] = []

    def judge(part: list[bytes]) -> Outcome:
        if len(bench.pauses) < 20:
            refused.append(len(part))
            return Refused("HTTP 400 Bad Request")
        return Delivered()

    bench.sender.judge = judge
    bench.run_until(lambda: bench.spool.totals.spans == 0)
    assert set(bench.sender.taken) == set(spans)
    assert letters(bench) == []
    assert said(caplog, "WARNING") == [
        "fake: HTTP 400 Bad Request; it refuses all other spans too, so the spans are not the cause; "
        "spans wait in the spool"
    ]
    assert len(refused) < 20 * 10


def test_target_that_breaks_while_it_refuses_one_span_keeps_the_others(bench: Bench) -> None:
    """Of a message that is sorted out only the span is given up that is refused by a target that works."""
    spans = [span(number) for number in range(1, 65)]
    bench.put(*spans)
    outcomes = iter(["ok"] * 4 + ["broken"] * 60)
    honest = refusing(span(40))
    bench.sender.judge = lambda part: (
        Refused("HTTP 400: proxy") if next(outcomes, "ok") == "broken" else honest(part)
    )
    bench.run_until(lambda: bench.spool.totals.spans == 0)
    assert set(bench.sender.taken) == set(spans) - {span(40)}
    assert letters(bench) == [span(40)]


def test_refused_span_waits_for_another_one_to_tell_whose_fault_it_is(bench: Bench) -> None:
    """With nothing else to try no span is held up by it; the next accepted span decides."""
    bench.sender.judge = refusing(span(1))
    bench.put(span(1))
    thread = threading.Thread(target=bench.delivery.run)
    thread.start()
    wait_until(lambda: len(bench.pauses) > 3, "the span is tried again", every_s=0.005)
    assert letters(bench) == []
    assert bench.delivery.stats.failing_since_s is not None
    bench.put(span(2))
    wait_until(lambda: letters(bench) == [span(1)], "the dead letter", every_s=0.005)
    wait_until(lambda: bench.spool.totals.spans == 0, "the other span", every_s=0.005)
    assert span(2) in bench.sender.taken
    bench.delivery.drain()
    thread.join(30)


def test_refused_spans_in_front_hold_up_no_others_behind_them(bench: Bench) -> None:
    """A target with rules of its own is asked for each span; what waits behind has its turn meanwhile."""
    bad = [span(number) for number in range(1, 201)]
    for first in range(0, 200, 20):
        bench.put(*bad[first : first + 20])
    bench.put(*[span(number) for number in range(1000, 1040)])
    target = SlowTarget(bench, bad, span(1039))
    bench.deliver()
    assert sorted(letters(bench)) == bad
    assert target.taken_after_s[0] <= 10 * (PUT_BACK_S + 0.1)
    assert target.now_s > 8.0
    stats = bench.delivery.stats
    assert (stats.sent_spans, stats.dead_spans, bench.spool.totals.spans) == (40, 200, 0)


def test_many_refused_messages_hold_up_the_last_one_no_longer_than_they_are_tried(bench: Bench) -> None:
    """While refused spans are sorted out, most others that are refused go behind what was not tried."""
    bad = [span(number) for number in range(1, 2001)]
    for first in range(0, 2000, 20):
        bench.put(*bad[first : first + 20])
    bench.put(*[span(number) for number in range(5000, 5020)])
    target = SlowTarget(bench, bad, span(5019))
    bench.deliver()
    assert target.taken_after_s[0] <= 100 * PUT_BACK_S / 4
    assert sorted(letters(bench)) == bad
    assert bench.spool.totals.spans == 0


def test_refused_spans_become_fewer_before_they_go_behind_the_others(bench: Bench) -> None:
    """Put back before one is found, a message with many of them would come back for ever."""
    bad = [span(number) for number in range(1, 65)]
    bench.put(*bad)
    bench.put(span(1000))
    now_s = 0.0
    put_backs = 0
    honest = refusing(*bad)
    put_back = bench.spool.put_back

    def judge(part: list[bytes]) -> Outcome:
        nonlocal now_s
        now_s += 1.0
        return honest(part)

    def counted(batches: Sequence[Batch], sender: str | None) -> None:
        nonlocal put_backs
        put_backs += 1
        assert put_backs <= 10 * len(bad)  # most without an attempt at their spans
        put_back(batches, sender)
        bench.put(span(1000 + put_backs))

    bench.spool.put_back = counted  # type: ignore[method-assign]
    bench.delivery.stats.clock_s = lambda: now_s
    bench.sender.judge = judge
    bench.deliver()
    assert sorted(letters(bench)) == bad
    assert put_backs > 3


def test_delivery_waits_while_a_damaged_spool_cannot_be_replaced(bench: Bench) -> None:
    """The disk has no room for a new file: that ends nothing, and what comes after is delivered."""
    bench.put(span(1))
    read = bench.spool.read
    attempts = 0

    def full_disk(*arguments: Any) -> Message | None:
        nonlocal attempts
        attempts += 1
        if attempts <= 3:
            raise DiskFull("database or disk is full")
        return read(*arguments)

    bench.spool.read = full_disk  # type: ignore[method-assign]
    bench.run_until(lambda: bench.sender.taken == [span(1)])
    attempts = 0
    bench.deliver()
    assert attempts == 1  # told to stop, it does not wait


def test_refused_spans_keep_their_place_in_a_full_spool(bench: Bench) -> None:
    """Without room to put them behind the others, they are sorted out in place."""
    bad = [span(number) for number in range(1, 101)]
    bench.put(*bad)
    bench.put(span(1000))
    bench.spool.max_bytes = bench.spool.totals.bytes * 10
    now_s = 0.0
    honest = refusing(*bad)

    def judge(part: list[bytes]) -> Outcome:
        nonlocal now_s
        now_s += 0.1
        return honest(part)

    def full(*arguments: object) -> None:
        raise SpoolFull("full")

    bench.spool.put_back = full  # type: ignore[method-assign]
    bench.delivery.stats.clock_s = lambda: now_s
    bench.sender.judge = judge
    bench.deliver()
    assert sorted(letters(bench)) == bad
    assert span(1000) in bench.sender.taken


def test_refusals_are_said_once_in_a_while(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Counters have them all."""
    now_s = 1000.0
    bench.delivery.stats.clock_s = lambda: now_s
    bench.sender.judge = refusing(b"{}")
    for _ in range(5):
        bench.put(b"{}", span(1))
        bench.put(span(2, MAX_BYTES))
    bench.deliver()
    assert len(said(caplog, "WARNING")) == 1
    assert bench.delivery.stats.dead_spans == 5
    now_s += DEAD_LETTERS_LOG_S
    bench.put(b"{}")
    again = Delivery(bench.spool, bench.sender, MAX_BYTES)
    again.drain()
    again.run()
    assert len(said(caplog, "WARNING")) == 2


@given(st.sets(st.integers(0, 99)), st.randoms(use_true_random=False))
def test_span_that_the_target_accepts_is_found_wherever_it_lies(bad: set[int], rng: random.Random) -> None:
    """However many are refused, one that is taken is tried sooner or later, and no good span is given up."""
    good = sorted(set(range(100)) - bad)
    judge = refusing(*map(span, bad))
    waiting = [span(number) for number in range(100)]
    refusal_judge = RefusalJudge(lambda place: waiting[int(place * 99)], rng)
    number = min(bad, default=0)
    for _ in range(3000):
        outcome = refusal_judge.judge(span(number), waiting, lambda part: judge(split(part)))
        if not isinstance(outcome, Failed):
            break
    if number not in bad:
        assert outcome == Delivered()
    else:
        assert isinstance(outcome, Refused if good else Failed)


def test_message_that_is_too_large_is_sent_in_parts(bench: Bench) -> None:
    """413 is about the message, not about a span."""
    spans = [span(number) for number in range(16)]
    bench.put(*spans)
    bench.sender.judge = lambda part: Refused("HTTP 413") if len(part) > 3 else Delivered()
    bench.deliver()
    assert bench.sender.taken == spans
    assert bench.delivery.stats.dead_spans == 0
    assert bench.delivery.stats.sent_spans == 16


def test_bytes_that_are_no_json_do_not_stop_the_spans_beside_them(bench: Bench) -> None:
    """Garbage with a right CRC is refused by the target, found, and put among the dead letters."""
    bench.put(span(1), b"{garbage", span(2))
    bench.sender.judge = lambda part: (
        Refused("HTTP 400") if any(b"garbage" in text for text in part) else Delivered()
    )
    bench.deliver()
    assert bench.sender.taken == [span(1), span(2)]
    assert bench.delivery.stats.dead_spans == 1


def test_drain_ends_at_a_target_that_is_away_and_keeps_the_spans(bench: Bench) -> None:
    """Nobody waits at the end for a target that does not answer; the next agent sends the spans."""
    bench.put(span(1))
    bench.sender.judge = lambda part: Failed("Connection refused")
    bench.deliver()
    assert bench.sender.attempts == 1
    assert bench.spool.totals.spans == 1


def test_delivered_spans_leave_the_disk_now_and_then_while_there_are_more(bench: Bench) -> None:
    """A kill in the middle of many messages repeats those of the last SAVE_S, not all."""
    halves, on_disk = 0, list[int]()
    bench.delivery.stats.clock_s = lambda: halves * SAVE_S / 2
    for _ in range(5):
        bench.put(*[span(number) for number in range(60)])

    def judge(part: list[bytes]) -> Outcome:
        nonlocal halves
        halves += 1
        on_disk.append(bench.spool.totals.spans)
        return Delivered()

    bench.sender.judge = judge
    bench.deliver()
    assert on_disk == [300, 300, 180, 180, 60]


def test_delivered_spans_leave_the_disk_before_a_wait(bench: Bench) -> None:
    """While a target is away, which may be long, a kill repeats nothing that was delivered before."""
    on_disk: list[int] = []
    delivery = Delivery(
        *(bench.spool, bench.sender, MAX_BYTES, FixedBackoff()),
        pause=lambda seconds: on_disk.append(bench.spool.totals.spans),
        stats=SenderStats(clock_s=lambda: 100.0),
    )
    bench.delivery = delivery
    outcomes = iter([Delivered(), Delivered(), Failed("away")])
    bench.sender.judge = lambda part: next(outcomes, Delivered())
    for _ in range(3):
        bench.put(*[span(number) for number in range(60)])
    bench.run_until(lambda: bool(on_disk))
    assert on_disk == [60]


def test_spans_that_a_sender_holds_stay_in_the_spool(bench: Bench) -> None:
    """A sender that keeps spans in memory gives their rows up when it is done with them."""
    bench.put(span(1))
    bench.put(span(2))
    bench.sender.holds_from = 2
    bench.run_until(lambda: bench.spool.totals.spans == 1)
    assert bench.sender.taken == [span(1), span(2)]
    assert bench.spool.totals.spans == 0  # given up by `close`


def test_delivery_goes_on_while_the_disk_is_full(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cursor that cannot be saved is kept in memory, said once, and saved later."""
    save = bench.spool.save

    def refuse() -> None:
        raise SpoolFull("disk is full")

    monkeypatch.setattr(bench.spool, "save", refuse)
    for number in range(5):
        bench.put(span(number, MAX_BYTES // 2))
    bench.deliver()
    assert len(bench.sender.taken) == 5
    assert said(caplog, "WARNING") == ["what fake has delivered is kept in memory only: disk is full"]
    monkeypatch.setattr(bench.spool, "save", save)
    bench.spool.save()
    assert bench.spool.totals.spans == 0


@given(st.lists(st.sampled_from([span(1), b'{"a":"}{,\\n"}', b'{"tags":{"x":"\\u0000"}}']), min_size=1))
def test_split_takes_joined_spans_apart(spans: list[bytes]) -> None:
    """Whatever stands inside them, spans come apart as they were."""
    assert split(SEPARATOR.join(spans)) == spans


def test_split_takes_bodies_apart_beside_what_is_no_json() -> None:
    """The spans of an HTTP body are separated by commas alone, and are split whatever surrounds them."""
    deep = b"[" * 100_000
    for broken in (b"{broken", deep):
        joined = SEPARATOR.join([span(1), b" , ".join([span(2), span(3)]), broken])
        assert split(joined) == [span(1), span(2), span(3), broken]


@given(st.binary())
def test_split_never_raises_and_loses_nothing(raw: bytes) -> None:
    """Bytes that are not JSON are split somewhere, and joined are what they were."""
    parts = split(raw)
    assert SEPARATOR.join(parts) == raw or b"".join(parts).translate(None, b", \n\t\r") == raw.translate(
        None, b", \n\t\r"
    )


@given(st.randoms(use_true_random=False), st.integers(0, 40))
def test_backoff_spreads_and_grows_to_a_limit(rng: object, failures: int) -> None:
    """Delays are random below a bound that doubles from 0.1 s to 30 s, and begin again after success."""
    backoff = Backoff(rng)  # type: ignore[arg-type]
    for _ in range(failures):
        backoff.next_s()
    assert 0 <= backoff.next_s() <= min(FIRST_S * 2**failures, LONGEST_S)
    backoff.reset()
    assert backoff.next_s() <= FIRST_S


def test_backoff_waits_no_less_than_asked_and_not_for_ever() -> None:
    """A target's wish counts up to five minutes."""
    assert Backoff().next_s(60.0) == 60.0
    assert Backoff().next_s(1e9) == 300.0


class HoldingSender(FakeSender):
    """Sends in `idle` what it has held back, with these outcomes one after the other."""

    def __init__(self, *outcomes: Delivered | Failed) -> None:
        super().__init__()
        self.outcomes = list(outcomes)

    def idle(self) -> Delivered | Failed | None:
        return self.outcomes.pop(0) if self.outcomes else None


def test_outcome_of_sending_what_was_held_back_counts(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A failure without a further message is logged and counted like any other, and so is its end."""
    bench.delivery.sender = sender = HoldingSender(Failed("disk full"), Failed("disk full"), Delivered())
    stats = bench.delivery.stats
    with caplog.at_level("INFO"):
        bench.run_until(lambda: not sender.outcomes and stats.failing_since_s is None)
    assert sum(stats.failures.values()) == 2
    assert [record.getMessage() for record in caplog.records] == [
        "fake: disk full; spans wait in the spool",
        "fake: works again",
    ]
