"""kaspan.agent.receivers.group_commit: many bodies, few flushes of the disk."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.batch import Batch, split
from kaspan.agent.receivers import group_commit
from kaspan.agent.receivers.group_commit import GroupCommit, joined
from kaspan.agent.spool.database import SpoolFull
from support.served_collector import FakeSpool

ROW_BYTES = 50


def batch(*numbers: int) -> Batch:
    return Batch(len(numbers), b",".join(b'{"id":"%d"}' % number for number in numbers))


def commits_to(spool: FakeSpool, clients: int = 100) -> GroupCommit:
    """Commits into a spool, for so many clients."""
    return GroupCommit(spool, ROW_BYTES, lambda: clients)  # type: ignore[arg-type]


@given(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=9)))
def test_rows_hold_every_span_in_order_and_keep_to_their_size(bodies: list[list[int]]) -> None:
    """Small batches are joined while they fit, in their order; a larger one stays by itself."""
    rows = joined([batch(*numbers) for numbers in bodies], ROW_BYTES)
    spans = [span for row in rows for span in split(row.body)]
    assert spans == [b'{"id":"%d"}' % number for numbers in bodies for number in numbers]
    assert sum(row.spans for row in rows) == len(spans)
    assert all(len(row.body) <= ROW_BYTES or row in [batch(*numbers) for numbers in bodies] for row in rows)


def run(commits: GroupCommit, *bodies: Batch) -> list[BaseException | None]:
    """Put bodies at once from one event loop, and return what became of each."""

    async def put_all() -> list[BaseException | None]:
        puts: list[Coroutine[object, object, None]] = [commits.put([body]) for body in bodies]
        return await asyncio.gather(*puts, return_exceptions=True)

    return asyncio.run(put_all())


def test_what_is_there_at_once_is_one_transaction() -> None:
    """Bodies that arrive together are committed together, from the first one on."""
    spool = FakeSpool()
    assert run(commits_to(spool), *map(batch, range(20))) == [None] * 20
    assert len(spool.transactions) == 1


def test_under_load_a_commit_waits_until_all_clients_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon after a commit the next one waits for more, and no longer once every client waits for it."""
    monkeypatch.setattr(group_commit, "INTERVAL_S", 3600.0)
    spool = FakeSpool()
    commits = commits_to(spool, clients=3)

    async def put_all() -> None:
        await commits.put([batch(1)])
        puts = [asyncio.ensure_future(commits.put([batch(number)])) for number in (2, 3)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert len(spool.transactions) == 1
        await commits.put([batch(4)])
        await asyncio.gather(*puts)

    asyncio.run(asyncio.wait_for(put_all(), 60))
    assert len(spool.transactions) == 2


def test_failed_transaction_is_everybodys() -> None:
    """Every client whose spans were in a failed transaction gets the error, and none is left waiting."""
    spool = FakeSpool()
    commits = commits_to(spool)
    spool.error = OSError("gone")
    assert run(commits, batch(1), batch(2)) == [spool.error] * 2
    assert commits.waiting_bytes == 0
    spool.error = None
    assert run(commits, batch(3)) == [None]


def test_nobody_waits_for_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are told to come again, later ones are served, and nothing is stored that was refused."""
    spool = FakeSpool()
    commits = commits_to(spool)

    async def put_twice() -> None:
        with monkeypatch.context() as without_threads:
            without_threads.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(SpoolFull, match="cannot start a thread to store spans: can't start new"):
                await commits.put([batch(1)])
        await commits.put([batch(2)])

    asyncio.run(asyncio.wait_for(put_twice(), 60))
    assert spool.spans == [batch(2).body]
    assert commits.waiting_bytes == 0


def no_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_bodies_that_do_not_fit_together_are_taken_one_by_one() -> None:
    """Where there is room for some of what came at once, only the others are told that the spool is full."""
    spool = FakeSpool()
    spool.room_bytes = 2 * len(batch(1).body)
    outcomes = run(commits_to(spool), *map(batch, range(5)))
    assert [type(outcome) for outcome in outcomes] == [type(None)] * 2 + [SpoolFull] * 3
    assert spool.spans == [batch(0).body, batch(1).body]


def test_client_that_gives_up_does_not_disturb_the_others() -> None:
    """A put that is cancelled leaves the transaction of the others alone."""
    spool = FakeSpool()
    commits = commits_to(spool)

    async def put_two() -> None:
        given_up = asyncio.ensure_future(commits.put([batch(1)]))
        kept = asyncio.ensure_future(commits.put([batch(2)]))
        await asyncio.sleep(0)
        given_up.cancel()
        await kept
        with pytest.raises(asyncio.CancelledError):
            await given_up

    asyncio.run(put_two())
    assert len(spool.spans) == 2
    assert commits.waiting_bytes == 0
