"""A collector that serves over a spool in memory."""

from __future__ import annotations

import threading
from pathlib import Path

from kaspan.agent.batch import Batch, split
from kaspan.agent.receivers.collector import Collector
from kaspan.agent.spool.database import SpoolFull
from kaspan.config import schema
from support.raw_http import RawHttpClient


class FakeSpool:
    """Keeps what it is given in memory; a test may hold it up, fill it or break it."""

    def __init__(self) -> None:
        self.transactions: list[list[Batch]] = []
        self.error: Exception | None = None
        self.room_bytes = 1 << 62
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.entered = threading.Event()

    def put(self, batches: list[Batch], positions: dict[str, int]) -> None:
        assert positions == {}
        self.entered.set()
        assert self.may_go_on.wait(30)
        if self.error is not None:
            raise self.error
        if sum(len(batch.body) for batch in batches) > self.room_bytes:
            raise SpoolFull("the spool is full")
        self.room_bytes -= sum(len(batch.body) for batch in batches)
        self.transactions.append(batches)

    def fill(self) -> None:
        self.error = SpoolFull("the spool is full")

    @property
    def spans(self) -> list[bytes]:
        return [span for batches in self.transactions for batch in batches for span in split(batch.body)]


class ServedCollector:
    """A collector that serves in a thread, over a fake spool, on a free port and a unix socket."""

    def __init__(self, directory: Path, settings: dict[str, object]) -> None:
        self.spool = FakeSpool()
        self.socket = str(directory / "agent.sock")
        given = {"listen": "127.0.0.1:0", "socket": self.socket, **settings}
        self.collector = Collector(schema.Agent(**given), self.spool)  # type: ignore[arg-type]
        self.server = self.collector.server
        self.port = int(self.server.names[0].rpartition(":")[2])
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._clients: list[RawHttpClient] = []

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self.server.run()
        except Exception as failure:  # noqa: BLE001 (tests look at it)
            self.failure = failure

    def client(self, unix: bool = False) -> RawHttpClient:
        client = RawHttpClient(self.socket if unix else ("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    def wait(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def stop(self) -> None:
        self.spool.may_go_on.set()
        for client in self._clients:
            client.close()
        self.server.stop()
        self.wait()
