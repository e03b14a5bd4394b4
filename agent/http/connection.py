"""One HTTP/1.1 connection: reads requests and sends their responses in order, within time limits.

`parser` limits the size of requests, `body_writer` what a response holds that is not read. This module limits
their time, and handles clients that are refused while they still send.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import Protocol, cast

from kaspan.agent.http.body_writer import BodyWriter
from kaspan.agent.http.messages import (
    ACCEPTED,
    PIECE_BYTES,
    Request,
    Response,
    StreamError,
    make_refusal,
)
from kaspan.agent.http.parser import Gate, Incoming, RequestReader

IDLE_S = 300.0
"""How long a connection may be idle: if it is closed too early, a client's next report may fail.

At the limit of connections, `Acceptor` closes the one that is idle longest before that.
"""
HEAD_S = 10.0
"""Time limit for the head of a request, and for the first byte of a new connection."""
BODY_S = 60.0
"""Time limit for the body of a request, from the end of its head."""
HANDSHAKE_S = 10.0
LINGER_S = 2.0
"""How long bytes of a refused client are still read, so that it gets the response and not a reset."""

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NEVER = float("inf")

_log = logging.getLogger("kaspan.agent")


class Server(Gate, Protocol):
    """What a connection uses of its server."""

    loop: asyncio.AbstractEventLoop
    buffer: bytearray
    """All connections read into this one buffer."""
    is_stopping: bool
    date: str
    """The value of the Date header."""

    async def answer(self, request: Request) -> Response:
        """Answer a whole request. Never raises."""

    def count_refusal(self, reason: str) -> None:
        """Count a request that is refused, or whose response is cut off."""

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection that is closed."""


class Connection(asyncio.BufferedProtocol):
    """The connection of one client. All methods run in the event loop's thread, and none blocks.

    `deadline_s` is when `time_out` is due, `since_s` when its current state began, on the loop's clock.
    `has_delivered`: spans of this client were accepted. `is_reading`: its bytes are parsed at this moment.
    """

    def __init__(self, server: Server, is_trusted: bool) -> None:
        self.has_delivered = self.is_reading = False
        self._server = server
        self._reader = RequestReader(server, is_trusted)
        # The state of the reader when the deadline was last extended: requests begun, and is it in a body?
        self._seen = (0, False)
        self._is_open = False
        self._answering: asyncio.Task[None] | None = None
        self._ends_with_client = False
        self._is_lingering = False

    @property
    def is_sending(self) -> bool:
        """Whether a part of a body has arrived, so that the request can be refused."""
        return self._reader.is_in_body and not self.is_reading and self._answering is None

    @property
    def is_answering(self) -> bool:
        """Whether a whole request has arrived and is being answered, and the client is not waited for."""
        return self._answering is not None and not self.is_stalled

    @property
    def is_stalled(self) -> bool:
        """Whether a piece of a response waits for the client."""
        return self._is_open and self._writer.is_waiting

    @property
    def is_in_head(self) -> bool:
        """Whether a part of the head of a request has arrived."""
        return self._reader.is_in_head

    @property
    def is_in_body(self) -> bool:
        """Whether the head of a request has arrived, and not all of its body."""
        return self._reader.is_in_body

    def open(self, accepted: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Take over an accepted socket, after a handshake if there is `tls`."""
        self._allow(HEAD_S)
        self._opening = self._server.loop.create_task(self._open(accepted, tls))
        self._opening.add_done_callback(lambda _: self._close_unless_open(accepted))

    async def _open(self, accepted: socket.socket, tls: ssl.SSLContext | None) -> None:
        handshake_s = HANDSHAKE_S if tls else None
        try:
            await self._server.loop.connect_accepted_socket(
                lambda: self, accepted, ssl=tls, ssl_handshake_timeout=handshake_s
            )
        except OSError:
            pass  # it speaks another protocol, or is closed already
        finally:
            if not self._is_open:
                self._server.disconnected(self)

    def _close_unless_open(self, accepted: socket.socket) -> None:
        # A task that is cancelled before it begins would leave the socket to the garbage collector.
        if not self._is_open:
            accepted.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 (asyncio's own)
        self._is_open = True
        self._transport = cast(asyncio.Transport, transport)
        self._writer = BodyWriter(self._transport, self._wait_for_client)
        self._allow(HEAD_S)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002, D102 (asyncio's own)
        self._reader.end()
        self._server.disconnected(self)
        if self._answering is not None and self._ends_with_client:
            self._answering.cancel()

    def _allow(self, seconds: float) -> None:
        """Set the deadline for what the client must do next."""
        self.since_s = self._server.loop.time()
        self.deadline_s = self.since_s + seconds

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: ARG002, D102 (asyncio's own)
        return self._server.buffer

    def buffer_updated(self, size: int) -> None:  # noqa: D102 (asyncio's own)
        if self._is_lingering:
            return
        self.is_reading = True
        self._reader.feed(memoryview(self._server.buffer)[:size])
        self.is_reading = False
        self._react()

    def _react(self) -> None:
        """React to what was read."""
        if self._answering is not None or self._writer.is_paused:
            if self._reader.requests or self._reader.refusal is not None:
                self._transport.pause_reading()
        elif self._reader.requests:
            self._answer_next()
        elif self._reader.refusal is not None:
            self._refuse(self._reader.refusal)
        else:
            self._extend_deadline()

    def _extend_deadline(self) -> None:
        """Set the deadline for the rest of a request that has begun."""
        seen = (self._reader.began, self._reader.is_in_body)
        if seen == self._seen:
            return
        self._seen = seen
        if self.is_in_head or self.is_in_body:
            self._allow(BODY_S if self.is_in_body else HEAD_S)
        if self._reader.expects_continue:
            self._transport.write(_CONTINUE)

    def _answer_next(self) -> None:
        self.deadline_s = _NEVER
        incoming = self._reader.requests.popleft()
        # What only reads ends with its client; spans are stored also when nobody waits for the answer.
        self._ends_with_client = incoming.request.method in ("GET", "HEAD")
        self._answering = self._server.loop.create_task(self._answer(incoming))

    async def _answer(self, incoming: Incoming) -> None:
        request = incoming.request
        try:
            answer = await self._server.answer(request)
        finally:
            incoming.reservation.release()
        self.has_delivered = self.has_delivered or answer.status == ACCEPTED
        keep_alive = incoming.keep_alive and not self._server.is_stopping
        if answer.stream is not None or len(answer.body) > PIECE_BYTES:
            await self._send_pieces(answer, incoming, keep_alive)
        elif not self._transport.is_closing():
            self._transport.write(answer.encode(self._server.date, keep_alive, request.method == "HEAD"))
        self._answering = None
        if self._transport.is_closing():
            return
        if keep_alive:
            self._allow(IDLE_S)
            self._resume()
        else:
            self._allow(LINGER_S)
            self._transport.close()

    async def _send_pieces(self, answer: Response, incoming: Incoming, keep_alive: bool) -> None:
        """Send a long response, each piece when the client has taken the one before."""
        self._ends_with_client = True
        is_chunked = answer.stream is not None and incoming.is_http_1_1
        if is_chunked:
            framing = "Transfer-Encoding: chunked"
        else:
            framing = "" if answer.stream is not None else f"Content-Length: {len(answer.body)}"
        head = answer.encode_head(self._server.date, keep_alive, framing)
        try:
            await self._writer.send(answer, head, is_chunked, incoming.request.method == "HEAD")
        except StreamError as error:
            _log.warning("the response to %s is cut off: %s", incoming.request.path[:200], error)
            self._server.count_refusal("cut off")
            self._writer.reset()

    def _wait_for_client(self, seconds: float | None) -> None:
        if seconds is None:
            self.deadline_s = _NEVER
        else:
            self._allow(seconds)

    def _resume(self) -> None:
        """Parse what arrived while a request was answered, or while its response was not read."""
        if self._writer.is_paused or self._answering is not None or self._transport.is_closing():
            return
        self.is_reading = True
        self._reader.resume()
        self.is_reading = False
        self._react()
        if self._answering is None:
            self._transport.resume_reading()

    def pause_writing(self) -> None:  # noqa: D102 (asyncio's own)
        self._writer.is_paused = True

    def resume_writing(self) -> None:  # noqa: D102 (asyncio's own)
        self._writer.resume()
        self._resume()

    def _refuse(self, answer: Response) -> None:
        """Refuse the request, and parse no more."""
        self._server.count_refusal(answer.refusal)
        self._reader.end()
        self._is_lingering = True
        self._allow(LINGER_S)
        self._transport.write(answer.encode(self._server.date, keep_alive=False))
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def time_out(self) -> None:
        """Close the connection after its deadline; answer 408 if a request has begun."""
        if self.is_stalled:
            self._server.count_refusal("stalled")
            self._writer.reset()
        elif not self._is_open or self._is_lingering or self._transport.is_closing():
            self.abort()
        elif self.is_in_head or self.is_in_body:
            self._refuse(make_refusal(408, "slow", "The request did not arrive in time"))
        else:
            self._allow(LINGER_S)
            self._transport.close()

    def close(self) -> None:
        """Close the connection at once if it is idle, otherwise after the next response."""
        if not self._is_open:
            self.abort()
        elif not (self._answering or self._reader.requests or self.is_in_head or self.is_in_body):
            self._transport.close()

    def abort(self) -> None:
        """Close the connection without a response."""
        if self._is_open:
            self._transport.abort()
        else:
            self._opening.cancel()
