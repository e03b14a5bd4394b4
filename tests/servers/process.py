"""A server process of the tests: started, waited for, stopped, killed, and started again where it was."""

from __future__ import annotations

import os
import signal
import socket
from abc import ABC, abstractmethod
from pathlib import Path

from support.process import RunningProcess
from support.waiting import TooLateError, wait_until

READY_DEADLINE_S = 90
STOP_TIMEOUT_S = 20
TAIL_BYTES = 4000


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class ServerProcess(ABC):
    """One server, started and ended as often as a test wants.

    `directory` takes its data and its log; port and data stay the same through `kill` and `restart`.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._running: RunningProcess | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line of the server; called at each start."""

    @abstractmethod
    def is_ready(self) -> bool:
        """Say whether the server answers a real request now; never raises for one that does not yet."""

    def environment(self) -> dict[str, str]:
        """Return the environment variables of the server."""
        return dict(os.environ)

    def start(self) -> None:
        """Start the server and return at once; `wait_until_ready` waits for it."""
        self._running = RunningProcess(self.command(), self.environment(), self.directory, "log")

    def wait_until_ready(self) -> None:
        """Block until the server answers.

        Raises:
            RuntimeError: it ended, or did not answer within READY_DEADLINE_S; with the tail of its log.
        """
        name = type(self).__name__
        try:
            wait_until(lambda: not self.is_running() or self.is_ready(), f"{name} is ready", READY_DEADLINE_S)
        except TooLateError as late:
            raise RuntimeError(f"{late}; its log ends:\n{self.log_tail()}") from None
        if not self.is_running():
            raise RuntimeError(f"{name} ended before it was ready; its log ends:\n{self.log_tail()}")

    def stop(self) -> None:
        """End the server as an operator would, and by force after STOP_TIMEOUT_S; return when it is gone."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server with SIGKILL, as a crash would; return when it is gone."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start the server again where it was, stopped first if it runs; return when it is ready."""
        self.stop()
        self.start()
        self.wait_until_ready()

    def is_running(self) -> bool:
        """Say whether the process is alive, ready or not."""
        return self._running is not None and self._running.is_running()

    @property
    def pid(self) -> int | None:
        """The process id, None before the start and after the end."""
        return self._running.process.pid if self._running is not None else None

    def log_tail(self) -> str:
        """Return the last lines that the server wrote to stdout, and those to stderr."""
        logs = sorted(self.directory.glob("log.*"))
        return "\n".join(log.read_bytes()[-TAIL_BYTES:].decode(errors="replace") for log in logs)

    def _end(self, how: signal.Signals) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.end_group(how, STOP_TIMEOUT_S)
