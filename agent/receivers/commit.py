"""Group commit: what waits while one transaction is being flushed goes into the next one, together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from kaspan.agent.spool import SEPARATOR, Batch, Spool


class GroupCommit:
    """Stores batches in the spool, from coroutines of one event loop, by one thread that waits for the disk.

    Small batches of a transaction become rows of at most `row_bytes`. `waiting_bytes` is what is not yet
    on disk.
    """

    def __init__(self, spool: Spool, row_bytes: int) -> None:
        self.waiting_bytes = 0
        self._spool = spool
        self.row_bytes = row_bytes
        self._waiting: list[tuple[list[Batch], asyncio.Future[None]]] = []
        self._is_committing = False
        self._disk = ThreadPoolExecutor(1, "commit")

    async def put(self, batches: list[Batch]) -> None:
        """Return when the batches are safe on disk. Raises what `Spool.put` does."""
        loop = asyncio.get_running_loop()
        size = sum(len(batch.body) for batch in batches)
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((batches, done))
        self.waiting_bytes += size
        if not self._is_committing:
            self._is_committing = True
            # Not at once: what else the sockets hold by now goes into the same transaction.
            loop.call_soon(self._commit, loop)
        try:
            await done
        finally:
            self.waiting_bytes -= size

    def _commit(self, loop: asyncio.AbstractEventLoop) -> None:
        taken, self._waiting = self._waiting, []
        rows = joined((batch for batches, _ in taken for batch in batches), self.row_bytes)
        stored = loop.run_in_executor(self._disk, self._spool.put, rows, {})
        stored.add_done_callback(lambda stored: self._committed(loop, taken, stored))

    def _committed(
        self,
        loop: asyncio.AbstractEventLoop,
        taken: list[tuple[list[Batch], asyncio.Future[None]]],
        stored: asyncio.Future[None],
    ) -> None:
        error = stored.exception()
        for _, done in taken:
            if done.cancelled():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
        self._is_committing = bool(self._waiting)
        if self._waiting:
            self._commit(loop)


def joined(batches: Iterable[Batch], row_bytes: int) -> list[Batch]:
    """Join batches while they fit into `row_bytes`: one that is larger stays by itself."""
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
