"""A ring receiver in memory: a spool that keeps what it is given, and a clock that tests turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from kaspan.agent.batch import Batch, split
from kaspan.agent.receivers.ring_directory import RingDirectory
from kaspan.agent.receivers.ring_receiver import RingReceiver
from kaspan.agent.spool.database import SpoolFull

FLUSH_INTERVAL_S = 10.0
BATCH_BYTES = 8192


class FakeSpool:
    """Keeps what it is given in memory, and refuses when it is told to be full."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.saved: dict[str, int] = {}
        self.full = False
        self.room_bytes = 1 << 62
        self.error: Exception = SpoolFull("the spool is full")
        self.puts = self.forgets = 0

    @property
    def transactions(self) -> int:
        return self.puts + self.forgets

    def positions(self) -> dict[str, int]:
        return dict(self.saved)

    def put(self, batches: Iterable[Batch], positions: Mapping[str, int]) -> None:
        batches = tuple(batches)
        if self.full or sum(len(batch.body) for batch in batches) > self.room_bytes:
            raise self.error
        self.puts += 1
        assert "".join(positions).encode()  # SQLite takes no other text
        self.batches += batches
        self.saved.update(positions)

    def forget(self, ring_paths: Iterable[str]) -> None:
        self.forgets += 1
        for path in ring_paths:
            self.saved.pop(path, None)

    @property
    def spans(self) -> list[bytes]:
        return [taken for batch in self.batches for taken in split(batch.body)]


class RingAgent:
    """A receiver on one directory with a clock that tests turn."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_s = 0.0
        self.spool = FakeSpool()
        self.restart()

    def restart(self) -> None:
        """Begin again with what is in the spool, as after a kill."""
        self.directory = RingDirectory(str(self.path))
        self.receiver = RingReceiver(
            [self.directory],
            self.spool,  # type: ignore[arg-type]
            BATCH_BYTES,
            FLUSH_INTERVAL_S,
            lambda: self.now_s,
        )

    def tick(self, after_s: float = 0.0) -> list[bytes]:
        """Let time pass and look once; gives all spans taken so far."""
        self.now_s += after_s
        self.receiver.tick()
        return self.spool.spans


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
