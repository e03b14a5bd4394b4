"""Group commit: all batches that arrive while one transaction is flushed go into the next one together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.spool import Spool

INTERVAL_S = 0.04
"""Interval between commits under load: a later commit stores more spans at the same cost."""

_Waiting = tuple[list[Batch], "asyncio.Future[None]"]


class GroupCommit:
    """Stores batches in the spool, from coroutines of one event loop, by one thread that waits for the disk.

    A batch after a pause is committed at once. Under load a commit follows INTERVAL_S after the one before,
    or as soon as all clients wait for it: `clients()` returns how many are connected, and each can wait for
    one request only. Small batches are joined to rows of at most `row_bytes`. Requests that do not fit into
    the spool together are tried one by one. `waiting_bytes` counts the bytes that are not on disk yet.
    """

    def __init__(self, spool: Spool, row_bytes: int, clients: Callable[[], int]) -> None:
        self.waiting_bytes = 0
        self._spool = spool
        self.row_bytes = row_bytes
        self._clients = clients
        self._waiting: list[_Waiting] = []
        self._is_committing = False
        self._timer: asyncio.TimerHandle | None = None
        self._next_s = 0.0
        self._disk = ThreadPoolExecutor(1, "commit")

    async def put(self, batches: list[Batch]) -> None:
        """Return when the batches are on disk. Raises what `Spool.put` raises."""
        loop = asyncio.get_running_loop()
        size = sum(len(batch.body) for batch in batches)
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((batches, done))
        self.waiting_bytes += size
        if not self._is_committing:
            self._is_committing = True
            self._schedule(loop)
        elif self._timer is not None and self._all_wait():
            self._timer.cancel()
            self._timer = loop.call_later(0.0, self._commit, loop)
        try:
            await done
        finally:
            self.waiting_bytes -= size

    def _all_wait(self) -> bool:
        return len(self._waiting) >= self._clients()

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not before the event loop has read what the sockets hold now: it goes into the same transaction.
        delay_s = 0.0 if self._all_wait() else max(0.0, self._next_s - loop.time())
        self._timer = loop.call_later(delay_s, self._commit, loop)

    def _commit(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._next_s = loop.time() + INTERVAL_S
        taken, self._waiting = self._waiting, []
        try:
            # Not by run_in_executor(), whose futures cost as much again as all of this.
            self._disk.submit(self._run, loop, taken)
        except Exception as error:  # noqa: BLE001 (raised where somebody waits)
            # The executor has queued the call before it fails to start its thread: leave it nothing to do.
            refused, taken[:] = list(taken), []
            full = SpoolFull(f"the agent cannot start a thread to store spans: {error}")
            self._committed(loop, refused, [full] * len(refused))

    def _run(self, loop: asyncio.AbstractEventLoop, taken: list[_Waiting]) -> None:
        if not taken:
            return
        outcomes: Sequence[BaseException | None]
        try:
            outcomes = self._store([batches for batches, _ in taken])
        except BaseException as error:  # noqa: BLE001 (raised where somebody waits)
            outcomes = [error] * len(taken)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(self._committed, loop, taken, outcomes)

    def _store(self, bodies: list[list[Batch]]) -> list[SpoolFull | None]:
        """Store the batches of several requests; return for each None, or why it could not be stored."""
        try:
            self._spool.put(joined((batch for batches in bodies for batch in batches), self.row_bytes), {})
        except SpoolFull as full:
            return [full] if len(bodies) == 1 else [self._store([batches])[0] for batches in bodies]
        return [None] * len(bodies)

    def _committed(
        self, loop: asyncio.AbstractEventLoop, taken: list[_Waiting], outcomes: Sequence[BaseException | None]
    ) -> None:
        for (_, done), error in zip(taken, outcomes, strict=True):
            if done.cancelled():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
        self._is_committing = bool(self._waiting)
        if self._waiting:
            self._schedule(loop)


def joined(batches: Iterable[Batch], row_bytes: int) -> list[Batch]:
    """Join batches while they fit into `row_bytes`; a larger batch stays alone."""
    rows: list[Batch] = []
    group: list[bytes] = []
    spans = size = 0
    for batch in batches:
        if group and size + len(batch.body) > row_bytes:
            rows.append(Batch(spans, SEPARATOR.join(group)))
            group, spans, size = [], 0, 0
        group.append(batch.body)
        spans += batch.spans
        size += len(batch.body) + len(SEPARATOR)
    if group:
        rows.append(Batch(spans, SEPARATOR.join(group)))
    return rows
