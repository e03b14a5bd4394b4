"""The promise, while the spool's file is removed, spans expire from it, and it is compacted."""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from support.deployment import Deployment
from support.killed_agent import KILLS, KilledAgent, finish, print_outcome, zipkin_sender
from support.load import Applications, RingApplication
from support.ring_writer import RingWriter, span
from support.slow_disk import slow_disk
from support.waiting import wait_until
from support.zipkin_stub import Response, ZipkinStub

LARGE_BYTES = 200_000
LARGE_SPANS = 400
"""Together more than the 64 MiB at which a file that was emptied is compacted."""
JOURNAL_BYTES = 1 << 20
HOUR_US = 3600 * 1_000_000


@pytest.mark.parametrize("removed", [("",), ("-journal",), ("", "-journal"), ("", "-journal", ".lock")])
def test_nothing_is_lost_when_the_spool_is_removed_under_the_agent(
    deployment: Deployment, zipkin_stub: ZipkinStub, removed: tuple[str, ...]
) -> None:
    """Somebody cleans up: what was acknowledged before and after is in the file that the next agent opens."""
    rng = random.Random(16)
    zipkin_stub.answer = lambda report: Response(503)
    agent = KilledAgent(deployment, zipkin_sender(zipkin_stub.url))
    applications = Applications(deployment.ring_dir, agent.socket)
    for _ in range(max(2, KILLS // 5)):
        wait_until(agent.is_up, "the agent's start")
        wait_until(agent.spool_path.exists, "the spool's file")
        threading.Event().wait(rng.uniform(0.0, 0.5))  # not for something: the moment is random
        for suffix in removed:
            Path(f"{agent.spool_path}{suffix}").unlink()
        wait_until(
            lambda: all(Path(f"{agent.spool_path}{suffix}").exists() for suffix in removed),
            "the files to be there again",
            every_s=0.01,
        )
        if "" in removed:
            # Killed before all is in the new file, nobody could have it.
            wait_until(
                lambda: "the agent has written it again" in agent.running.stderr, "a whole file", every_s=0.01
            )
        agent.kill(rng)
        applications.replace_one(rng)
    zipkin_stub.answer = lambda report: Response()
    promised = applications.end()
    dead = finish(agent, promised, lambda: set(zipkin_stub.stored), set())
    print_outcome(promised, zipkin_stub.stored, dead, "removed spools")


def test_nothing_younger_is_lost_when_spans_expire_and_the_spool_is_compacted_under_kills(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """Killed while it deletes 80 MB and gives them back, it keeps what is new, and dead letters."""
    rng = random.Random(18)
    agent = KilledAgent(
        deployment,
        zipkin_sender(zipkin_stub.url),
        KASPAN_AGENT__SPOOL__MAX_AGE_S="600",
        **slow_disk(deployment.directory),
    )
    old, letters = set(range(1, LARGE_SPANS + 1)), set(range(LARGE_SPANS + 1, LARGE_SPANS * 3 // 2))
    promised: set[str] = set()
    expired: set[str] = set()
    for life in range(max(1, KILLS // 15)):
        zipkin_stub.answer = lambda report: Response(503)
        wait_until(agent.is_up, "the agent's start")
        application = RingApplication(deployment.ring_dir, f"{life}-young.ring", (life + 1) << 32, 0.005)
        fill(deployment.ring_dir, f"{life}-old.ring", old)
        agent.running.kill()
        expired |= age(agent.spool_path, set() if life else letters)
        agent.start()
        while (left := rows_older_than_an_hour(agent.spool_path)) > 0:
            wait_until(
                lambda left=left: rows_older_than_an_hour(agent.spool_path) < left,  # type: ignore[misc]
                "spans to expire",
                every_s=0.01,
            )
            agent.kill(rng)
        promised |= application.end()
        zipkin_stub.answer = lambda report: Response()
        writer = RingWriter(deployment.ring_dir, f"{life}-last.ring")
        first = (1 << 40) + 10 * life
        for number in range(first, first + 3):
            # The spool is compacted when it is emptied: one span more, and it is again.
            assert writer.put(span(number))
            promised |= ids([number])
            wait_until(lambda: is_compacting(agent), "the spool to be emptied", every_s=0.001)
            agent.running.kill()
            agent.start()
        assert writer.put(span(1 << 41))
        wait_until(lambda: is_small(agent.spool_path), "a small file")
        writer.die()
    promised -= expired
    assert len(promised) > 100
    dead = finish(agent, promised, lambda: set(zipkin_stub.stored), ids(letters))
    assert dead == ids(letters)
    assert not ids(old) & set(zipkin_stub.stored)
    print_outcome(promised, zipkin_stub.stored, dead, f"{len(expired)} expired")


def ids(numbers: Iterable[int]) -> set[str]:
    return {f"{number:016x}" for number in numbers}


def fill(ring_dir: Path, name: str, numbers: Iterable[int]) -> None:
    """Have the agent take large spans from one ring."""
    writer = RingWriter(ring_dir, name, data_bytes=4 << 20)
    for number in numbers:
        payload = span(number, LARGE_BYTES)
        while not writer.put(payload):
            wait_until(lambda: writer.read_pos == writer.write_pos, "room in the ring", every_s=0.005)
    wait_until(lambda: writer.read_pos == writer.write_pos, "the agent to take all")
    writer.die()


def age(path: Path, letters: Iterable[int]) -> set[str]:
    """While no agent has a spool, make its spans two hours older, and add dead letters; ids of the spans."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("update batches set received_us = received_us - ?", (2 * HOUR_US,))
        connection.executemany(
            "insert into dead_letters (sender, died_us, reason, span) values ('zipkin', ?, 'HTTP 400', ?)",
            [(time.time_ns() // 1000, span(number, LARGE_BYTES)) for number in letters],
        )
        bodies = [body for (body,) in connection.execute("select body from batches")]
    return {span["id"] for body in bodies for span in json.loads(b"[" + body + b"]")}


def rows_older_than_an_hour(path: Path) -> int:
    """Count the batches older than an hour, in the file as it is while an agent changes it."""
    limit_us = time.time_ns() // 1000 - HOUR_US
    statement = "select count(*) from batches where received_us < ?"
    uri = f"file:{path}?mode=ro&immutable=1"
    with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
        count: int = connection.execute(statement, (limit_us,)).fetchone()[0]
    return count


def is_compacting(agent: KilledAgent) -> bool:
    """Whether the journal has more than its reserve, or all is done."""
    assert agent.running.process.poll() is None, agent.running.stderr
    journal = Path(f"{agent.spool_path}-journal")
    return is_small(agent.spool_path) or (journal.exists() and journal.stat().st_size > JOURNAL_BYTES)


def is_small(path: Path) -> bool:
    return path.stat().st_size < LARGE_SPANS * LARGE_BYTES
