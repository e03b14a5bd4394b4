"""The servers of one test run: started together, each handed out when it is ready."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from servers.jars import Jars
from servers.kafka import KafkaServer
from servers.process import ServerProcess
from servers.zipkin import ZipkinServer

Server = TypeVar("Server", bound=ServerProcess)


class Servers:
    """One Kafka and one Zipkin under `directory`; neither runs before `start` names it."""

    def __init__(self, jars: Jars, directory: Path) -> None:
        self._jars = jars
        self._directory = directory
        self._kafka: KafkaServer | None = None
        self._zipkin: ZipkinServer | None = None
        self._collecting_zipkin: ZipkinServer | None = None

    def start(self, names: Collection[str]) -> None:
        """Start those of "kafka" and "zipkin" that are named, if they never were; they are not ready yet."""
        # Zipkin first: it starts by itself while Kafka's directory is being formatted.
        if "zipkin" in names and self._zipkin is None:
            self._zipkin = ZipkinServer(self._jars, self._made("zipkin"))
            self._zipkin.start()
        if "kafka" in names and self._kafka is None:
            self._kafka = KafkaServer(self._jars, self._made("kafka"))
            self._kafka.start()

    def kafka(self) -> KafkaServer:
        """Return the broker, once it is ready; started again if a test left it dead."""
        assert self._kafka is not None
        return _ready(self._kafka)

    def zipkin(self) -> ZipkinServer:
        """Return Zipkin, once it is ready; started again if a test left it dead."""
        assert self._zipkin is not None
        return _ready(self._zipkin)

    def collecting_zipkin(self) -> ZipkinServer:
        """Return a second Zipkin, which reads the broker's topic zipkin, once it is ready."""
        if self._collecting_zipkin is None:
            kafka = self.kafka().bootstrap_servers
            self._collecting_zipkin = ZipkinServer(self._jars, self._made("collecting-zipkin"), kafka)
        return _ready(self._collecting_zipkin)

    def stop(self) -> None:
        """End what was started, and return when it is gone."""
        for server in (self._zipkin, self._collecting_zipkin, self._kafka):
            if server is not None:
                server.stop()

    def _made(self, name: str) -> Path:
        directory = self._directory / name
        directory.mkdir()
        return directory


def _ready(server: Server) -> Server:
    if server.is_running():
        server.wait_until_ready()
    else:
        server.restart()
    return server
