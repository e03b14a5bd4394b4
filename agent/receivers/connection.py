"""One HTTP/1.1 connection: requests in, answers out, in order, within limits of size and time.

llhttp, Node's parser, reads the bytes (httptools). What it leaves open is decided here: how large and how
slow a request may be, and what becomes of a client that is told no while it still sends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, cast

import httptools

from kaspan.agent.receivers.exchange import Answer, Request, no

if TYPE_CHECKING:
    from kaspan.agent.receivers.http import HttpServer

IDLE_S = 300.0
"""A connection may be kept unused for this long: closed too soon, it costs a client its next report."""
HEAD_S = 10.0
"""A request's head must be here within this time of its first byte, and so must be that first byte."""
BODY_S = 60.0
"""A request's body must be here within this time of its head."""
LINGER_S = 2.0
"""How long a refused client is still listened to, so that it sees the answer and not a reset."""
MAX_HEAD_BYTES = 32 * 1024

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NEVER = float("inf")


class Connection(asyncio.Protocol):
    """A client, for as long as it stays. All methods run in the event loop's thread, and none blocks.

    `deadline_s` is when `time_out` is due and `since_s` when its present state began, on the loop's clock.
    """

    def __init__(self, server: HttpServer, is_trusted: bool) -> None:
        self._server = server
        self._is_trusted = is_trusted
        self._requests: deque[tuple[Request, bool]] = deque()
        self._answering: asyncio.Task[None] | None = None
        self._refusal: Answer | None = None
        self._is_lingering = self._is_clogged = False
        self._begin_parsing()

    def _begin_parsing(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._forget_request()

    def _forget_request(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._chunks: list[bytes] = []
        self._head_bytes = self._body_bytes = 0
        self._is_in_head = self._is_in_body = False

    @property
    def is_answering(self) -> bool:
        """Whether a whole request is here, and its client can do nothing but wait."""
        return self._answering is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 (asyncio's own)
        self._transport = cast(asyncio.Transport, transport)
        self._wait(HEAD_S)
        self._server.connected(self)

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002, D102 (asyncio's own)
        self._server.let_go(self._body_bytes + sum(len(request.body) for request, _ in self._requests))
        self._requests.clear()
        self._forget_request()
        self._server.disconnected(self)

    def _wait(self, seconds: float) -> None:
        self.since_s = self._server.loop.time()
        self.deadline_s = self.since_s + seconds

    def data_received(self, data: bytes) -> None:  # noqa: D102 (asyncio's own)
        if self._is_lingering:
            return
        if not self._is_in_body:
            self._head_bytes += len(data)
        self._feed(data)
        if self._is_in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refusal = no(431, "too large", f"A request's head may have {MAX_HEAD_BYTES} bytes")
        if self._refusal is not None:
            self._refuse(self._refusal)

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refusal = self._refusal or no(400, "malformed", f"This is no HTTP/1.1 request: {error}")

    def _ignore_upgrade(self, rest: bytes) -> None:
        """Read a request as if it had not asked for another protocol: Java's own client always does."""
        kept = [header for header in self._headers if header[0].lower() not in (b"upgrade", b"connection")]
        head = b"".join(b"%b: %b\r\n" % header for header in kept)
        line = b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._url)
        is_tunnel = line.startswith(b"CONNECT ")
        self._begin_parsing()
        if is_tunnel:
            self._refusal = no(405, "method", "This is no proxy", ("Allow", "POST"))
        else:
            self._feed(line + head + b"\r\n" + rest)

    # What httptools calls while it is fed: nothing may be raised there.

    def on_message_begin(self) -> None:  # noqa: D102 (httptools' own)
        self._is_in_head = True
        if self._answering is None:
            self._wait(HEAD_S)

    def on_url(self, url: bytes) -> None:  # noqa: D102 (httptools' own)
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102 (httptools' own)
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:  # noqa: D102 (httptools' own)
        if self._refusal is not None or self._parser.should_upgrade():
            return
        self._is_in_head, self._is_in_body, self._head_bytes = False, True, 0
        self._request = Request.of(self._parser.get_method(), self._url, self._headers, self._is_trusted)
        self._refusal = self._server.refuse_head(self._request)
        if self._refusal is None and self._answering is None:
            self._wait(BODY_S)
            if self._request.headers.get("expect", "").lower() == "100-continue":
                self._transport.write(_CONTINUE)

    def on_body(self, chunk: bytes) -> None:  # noqa: D102 (httptools' own)
        if self._refusal is not None:
            return
        self._refusal = self._server.hold(len(chunk), self._body_bytes + len(chunk))
        if self._refusal is None:
            self._body_bytes += len(chunk)
            self._chunks.append(chunk)

    def on_message_complete(self) -> None:  # noqa: D102 (httptools' own)
        if self._refusal is not None or self._parser.should_upgrade():
            return
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        may_stay = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
        self._requests.append((self._request._replace(body=body), may_stay))
        self._forget_request()
        if self._answering is None and not self._is_clogged:
            self._answer_next()
        else:
            self._transport.pause_reading()

    def _answer_next(self) -> None:
        self.deadline_s = _NEVER
        self._answering = self._server.loop.create_task(self._answer(*self._requests.popleft()))

    async def _answer(self, request: Request, may_stay: bool) -> None:
        answer = await self._server.answer(request)
        self._server.let_go(len(request.body))
        self._answering = None
        if self._transport.is_closing():
            return
        may_stay = may_stay and not self._server.is_stopping
        self._transport.write(answer.written(self._server.date, may_stay, request.method == "HEAD"))
        if may_stay:
            self._wait(HEAD_S if self._is_in_head else BODY_S if self._is_in_body else IDLE_S)
            self._go_on()
        else:
            self._wait(LINGER_S)
            self._transport.close()

    def _go_on(self) -> None:
        """Turn to what came while a request was being answered, or while its answer was not yet read."""
        if self._is_clogged or self._answering is not None or self._transport.is_closing():
            return
        if self._requests:
            self._answer_next()
        elif self._refusal is not None:
            self._refuse(self._refusal)
        else:
            self._transport.resume_reading()

    def pause_writing(self) -> None:  # noqa: D102 (asyncio's own)
        self._is_clogged = True

    def resume_writing(self) -> None:  # noqa: D102 (asyncio's own)
        self._is_clogged = False
        self._go_on()

    def _refuse(self, answer: Answer) -> None:
        """Say no and read no more, after the answers to the requests before."""
        if self._answering is not None or self._requests:
            self._transport.pause_reading()
            return
        self._server.refused(answer)
        self._server.let_go(self._body_bytes)
        self._forget_request()
        self._is_lingering = True
        self._wait(LINGER_S)
        self._transport.write(answer.written(self._server.date, keep_alive=False))
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def time_out(self) -> None:
        """End the connection, whose time is over: with a word if a request was on its way."""
        if self._is_lingering or self._transport.is_closing():
            self._transport.abort()
        elif self._is_in_head or self._is_in_body:
            self._refuse(no(408, "slow", "The request did not arrive in time"))
        else:
            self._wait(LINGER_S)
            self._transport.close()

    def close(self) -> None:
        """End the connection once nothing is under way: at once, or with the next answer."""
        if not (self._answering or self._requests or self._is_in_head or self._is_in_body):
            self._transport.close()

    def abort(self) -> None:
        """End the connection without a word."""
        self._transport.abort()
