"""An HTTP server of the agent with routes of a test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from kaspan.agent.http.listener import open_listeners
from kaspan.agent.http.messages import StreamError
from kaspan.agent.http.server import HttpServer
from kaspan.config import schema
from support.raw_http import RawHttpClient


class ServedHttp:
    """A server that runs in a thread on a free port; `add_routes` gets it before it runs."""

    def __init__(self, add_routes: Callable[[HttpServer], None], **settings: object) -> None:
        given = {"listen": "127.0.0.1:0", "socket": "", **settings}
        agent = schema.Agent(**given)  # type: ignore[arg-type]
        self.server = HttpServer(open_listeners(agent), agent)
        add_routes(self.server)
        self.port = int(self.server.names[0].rpartition(":")[2])
        self._clients: list[RawHttpClient] = []
        self._thread = threading.Thread(target=self.server.run, daemon=True)
        self._thread.start()

    def client(self) -> RawHttpClient:
        client = RawHttpClient(("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.server.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()


class FakeStream:
    """A body of `pieces`; after them it ends, fails with an `error`, or never comes to an end."""

    def __init__(self, pieces: list[bytes], error: str = "", is_endless: bool = False) -> None:
        self.read_pieces = 0
        self.closed = threading.Event()
        self.waiting = threading.Event()
        self._pieces, self._error, self._is_endless = pieces, error, is_endless

    async def read(self) -> bytes:
        if self.read_pieces < len(self._pieces):
            self.read_pieces += 1
            return self._pieces[self.read_pieces - 1]
        if self._error:
            raise StreamError(self._error)
        if self._is_endless:
            self.waiting.set()
            await asyncio.Event().wait()
        return b""

    def close(self) -> None:
        self.closed.set()
