"""A connection with a time limit for a whole request; a plain socket limits each wait only."""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class DeadlineSocket:
    """A connected socket for http.client. Operations end by the deadline that `allow` sets.

    A peer that sends or accepts a byte now and then would keep a plain socket busy for ever. Raises
    TimeoutError.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._deadline_s = 0.0

    def allow(self, timeout_s: float) -> None:
        """Set the deadline: all operations from now on may take `timeout_s` together."""
        self._deadline_s = time.monotonic() + timeout_s

    def _limit(self) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left_s)

    def sendall(self, data: bytes) -> None:
        """Send everything by the deadline; a socket's timeout covers the whole of sendall, with TLS too."""
        self._limit()
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:  # noqa: ARG002 (http.client's; it only reads)
        """Return the file from which http.client reads an answer."""
        return io.BufferedReader(_Reader(self._socket.makefile("rb", buffering=0), self._limit))

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket, once the file of an answer that is being read is closed too."""
        self._socket.close()


class _Reader(io.RawIOBase):
    def __init__(self, raw: socket.SocketIO, limit: Callable[[], None]) -> None:
        self._raw = raw
        self._limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        self._limit()
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()
