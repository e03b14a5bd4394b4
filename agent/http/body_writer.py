"""Sends a long response in pieces, so that a client that reads slowly holds no more than one of them."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from kaspan.agent.http.messages import PIECE_BYTES, BodyStream, Response

STALL_S = 10.0
"""How long a client may take for a piece of a long response, of up to PIECE_BYTES."""

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of a connection whose close is a reset: without chunks a client sees no other end."""


class BodyWriter:
    """Writes the long responses of one connection, one at a time.

    `wait` is called with STALL_S when the client has to take a piece, and with None when it has. `is_paused`
    and the methods `resume` and `reset` are for the connection; no method blocks.
    """

    def __init__(self, transport: asyncio.Transport, wait: Callable[[float | None], None]) -> None:
        self.is_paused = False
        self._transport = transport
        self._wait = wait
        self._taken: asyncio.Future[None] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a piece waits for the client."""
        return self._taken is not None

    async def send(self, answer: Response, head: bytes, is_chunked: bool, is_head_only: bool) -> None:
        """Send a response. Raises StreamError if its stream does; then `reset` is due."""
        stream: BodyStream = answer.stream or _Body(answer.body)
        self._transport.set_write_buffer_limits(PIECE_BYTES)
        try:
            self._write(head)
            if is_head_only:
                return
            while piece := await stream.read():
                self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
                await self._wait_for_client()
            if is_chunked:
                self._write(b"0\r\n\r\n")
        finally:
            stream.close()

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

    async def _wait_for_client(self) -> None:
        """Wait until the client has taken most of what was written."""
        if not self.is_paused or self._transport.is_closing():
            return
        self._taken = asyncio.get_running_loop().create_future()
        self._wait(STALL_S)
        try:
            await self._taken
        finally:
            self._taken = None
        self._wait(None)

    def resume(self) -> None:
        """Go on: the client has taken what was written."""
        self.is_paused = False
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)

    def reset(self) -> None:
        """Close the connection so that the client knows that the response is not whole."""
        with suppress(OSError):
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()


class _Body:
    """A whole body as a stream."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._position = 0

    async def read(self) -> bytes:
        self._position += PIECE_BYTES
        return self._body[self._position - PIECE_BYTES : self._position]

    def close(self) -> None:
        pass
