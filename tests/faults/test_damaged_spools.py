"""Spools that were damaged in every way: the agent starts, or sets them aside and starts.

KASPAN_TEST_DAMAGED_SPOOLS asks for more of them than a usual run has.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kaspan.agent.batch import SEPARATOR, Batch, split
from kaspan.agent.senders.base import Delivered, Outcome, Sender
from kaspan.agent.senders.delivery import Delivery
from kaspan.agent.spool.database import DAMAGED_INFIX, SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.expiry import Expiry
from kaspan.agent.spool.spool import Spool
from support.ring_writer import span

DAMAGED_SPOOLS = int(os.environ.get("KASPAN_TEST_DAMAGED_SPOOLS", "300"))
PAGE_BYTES = 16 * 1024
MAX_BYTES = 1 << 30
PATIENCE_S = 30
SENDERS = ("zipkin", "kafka")


class Taking(Sender):
    """Takes everything; counts what comes, so that nothing goes on for ever unnoticed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken: list[bytes] = []

    def send(self, spans: bytes, last_id: int) -> Outcome:
        self.taken += split(spans)
        return Delivered()


def made(path: Path, rng: random.Random) -> bytes:
    """Fill a spool with rows small and large, delivered and not, replayed, and dead letters; its bytes."""
    spool = Spool(str(path), MAX_BYTES)
    spool.register(SENDERS)
    letters = DeadLetters(spool)
    for number in range(1, rng.choice((2, 40, 400))):
        extra = rng.choice((0, 0, 0, 300, 5_000, 60_000))
        count = rng.choice((1, 1, 3))
        rows = SEPARATOR.join(span(number * 10 + index, extra) for index in range(count))
        spool.put([Batch(count, rows)], {f"/rings/{number}.ring": number * 64})
        if rng.random() < 0.1:
            letters.add(rng.choice(SENDERS), [("HTTP 400", span(number)), ("HTTP 413", b"{" * extra)])
        if rng.random() < 0.05:
            letters.replay(Selection(sender="kafka"))
        if rng.random() < 0.1:
            spool.advance("zipkin", rng.randrange(number))
            spool.advance("kafka", rng.randrange(number))
            if rng.random() < 0.5:
                spool.save()
    spool.close()
    return path.read_bytes()


def damaged(whole: bytes, rng: random.Random) -> bytearray:
    """Flip, swap, repeat, zero or cut off bytes, most of them where SQLite's and the spool's structure is."""
    raw = bytearray(whole)
    pages = len(raw) // PAGE_BYTES
    for _ in range(rng.choice((1, 1, 1, 2, 5, 30))):
        page = rng.choice((0, 1, 2, 3, rng.randrange(pages))) % pages * PAGE_BYTES
        at = page + rng.choice(
            (rng.randrange(100), rng.randrange(PAGE_BYTES), PAGE_BYTES - 1 - rng.randrange(200))
        )
        kind = rng.randrange(7)
        if kind == 0:
            raw[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[at] = rng.choice((0, 1, 2, 5, 10, 13, 127, 128, 255))
        elif kind == 2:
            other = rng.randrange(len(raw))
            raw[at], raw[other] = raw[other], raw[at]
        elif kind == 3:
            size = rng.choice((2, 4, 8, 512, PAGE_BYTES))
            other = rng.randrange(pages) * PAGE_BYTES
            here, there = raw[page : page + size], raw[other : other + size]
            raw[page : page + size], raw[other : other + size] = there, here
        elif kind == 4:
            size = rng.choice((1, 8, 512, 4096, PAGE_BYTES, 2 * PAGE_BYTES))
            raw[at : at + size] = bytes(len(raw[at : at + size]))
        elif kind == 5:
            raw[at : at + 4] = rng.randbytes(4)[: len(raw[at : at + 4])]
        elif rng.random() < 0.2:
            del raw[rng.choice((0, 1, 50, 100, 4096, at)) :]
            break
    return raw


@contextmanager
def limited(what: str) -> Iterator[None]:
    """Fail when it takes too long: a loop that does not end is what damage makes of a careless one."""

    def fail(*_arguments: object) -> None:
        raise AssertionError(f"{what} did not end in {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(PATIENCE_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def work_through(path: Path, rng: random.Random) -> bool:
    """Do with a spool what an agent does, and commands; whether it was set aside."""
    spool = Spool(str(path), MAX_BYTES)
    spool.register(SENDERS)
    letters = DeadLetters(spool)
    spool.positions()
    after = [span(1_000_000 + number) for number in range(3)]
    steps = [
        lambda: spool.put([Batch(1, after[0])], {"/rings/new": 8}),
        lambda: letters.replay(Selection()),
        lambda: [letters.get(letter.id) for letter in letters.find(Selection(), limit=1000)],
        lambda: Expiry(spool, wall_clock_s=lambda: 2e9).check(86400.0 * 365),
        lambda: [spool.behind(name) for name in SENDERS],
        lambda: letters.add("zipkin", [("HTTP 400", b"{}")]),
        lambda: letters.purge(Selection(sender="kafka")),
        lambda: spool.forget(["/rings/1.ring"]),
    ]
    rng.shuffle(steps)
    for step in steps:
        with contextlib.suppress(SpoolFull):
            step()
    before = spool.damages
    spool.put([Batch(1, after[1])], {})
    for name in SENDERS:
        sender = Taking(name)
        delivery = Delivery(spool, sender, 100_000)
        delivery.drain()
        delivery.run()
        # What was stored while the spool was found damaged is set aside with it; not what came after.
        assert after[1] in sender.taken or spool.damages > before
    spool.put([Batch(1, after[2])], {})
    with contextlib.suppress(SpoolFull):
        spool.save()
    spool.close()
    return spool.damages > 0


def test_damaged_spool_is_worked_through_or_set_aside(tmp_path: Path) -> None:
    """Every start, every command and every delivery ends, and the start after that finds nothing wrong."""
    rng = random.Random(int(os.environ.get("KASPAN_TEST_SEED", "15")))
    outcomes: Counter[str] = Counter()
    wholes = [made(tmp_path / f"whole-{number}.db", rng) for number in range(6)]
    for number in range(DAMAGED_SPOOLS):
        path = tmp_path / "spool.db"
        path.write_bytes(damaged(rng.choice(wholes), rng))
        case = random.Random(number)
        with limited(f"spool {number}"):
            try:
                is_aside = work_through(path, case)
                again = Spool(str(path), MAX_BYTES)
                again.register(SENDERS)
                again.close()
            except BaseException as error:
                (tmp_path / "culprit.db").write_bytes(path.read_bytes())
                error.add_note(f"spool {number}") if hasattr(error, "add_note") else None
                raise
        outcomes["set aside" if is_aside else "worked through"] += 1
        for left in tmp_path.glob(f"spool.db{DAMAGED_INFIX}*"):
            left.unlink()
        path.unlink()
    print(f"{DAMAGED_SPOOLS} damaged spools: {dict(outcomes)}")
    assert set(outcomes) == {"set aside", "worked through"}
