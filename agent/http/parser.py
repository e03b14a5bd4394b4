"""Parses the requests of one connection, within size limits.

httptools parses the bytes, with Node's parser llhttp. This module adds what that does not limit: the size of
each part of a request, and how many requests are parsed before they are answered.
"""

from __future__ import annotations

from collections import deque
from io import BytesIO
from typing import NamedTuple, NoReturn, Protocol

import httptools

from kaspan.agent.http.body_budget import BodyBudget, BodyReservation
from kaspan.agent.http.messages import Request, Response, make_refusal

MAX_HEAD_BYTES = 32 * 1024
"""Limit for the head of a request, and again for trailers and chunk extensions of its body."""
MAX_HEADERS = 100
_PIECE_BYTES = 2048
"""How much is parsed at a time where a request may end: what follows the request stays unparsed, as bytes.
A parsed request of 20 bytes takes 500."""
_HEAD_END = b"\r\n\r\n"
_CHUNK_LINE_BYTES = 24
"""How many bytes each chunk may have in addition to its content: length, line breaks, a short extension."""


class Incoming(NamedTuple):
    """A whole request, the part of the budget that its body uses, and whether the connection stays open.

    `is_http_1_1`: its client reads a body in chunks.
    """

    request: Request
    reservation: BodyReservation
    keep_alive: bool
    is_http_1_1: bool


class Gate(Protocol):
    """Decides which requests are read: the server."""

    budget: BodyBudget

    def refuse_head(self, request: Request) -> Response | None:
        """Refuse a request before its body is read."""

    def refuse_size(self, size: int, body_bytes: int) -> Response | None:
        """Refuse `size` more bytes of a body, which has `body_bytes` with them."""


class _StopReading(Exception):
    """Stops the parser after a refusal."""


class RequestReader:
    """Parses one connection's requests into `requests`, up to the first refused one: `refusal` answers it.

    `began` counts the requests that have begun to arrive. `is_in_head` or `is_in_body` says where the last
    one is. No method blocks or raises.
    """

    def __init__(self, gate: Gate, is_trusted: bool) -> None:
        self.requests: deque[Incoming] = deque()
        self.refusal: Response | None = None
        self.began = 0
        self._gate = gate
        self._is_trusted = is_trusted
        self._unread = b""
        self._parser = httptools.HttpRequestParser(self)
        self._reservation = BodyReservation(gate.budget)
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = self._fed_bytes = self._framing_bytes = 0
        self._missing_bytes = 0  # of a body with Content-Length
        self._is_chunked = False
        self._whole = b""
        self._body: BytesIO | None = None  # a body that arrives in pieces
        self.is_in_head = self.is_in_body = False

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for `100 Continue` before it sends the body."""
        return self.is_in_body and not self._reservation.size and self._expects

    def feed(self, data: memoryview | bytes) -> None:
        """Parse up to the end of a request; what follows is kept for the next call."""
        data = memoryview(self._unread + data if self._unread else data)
        position = 0
        while position < len(data) and not self.requests and self.refusal is None:
            position += self._parse(data[position : position + self._piece_bytes(data, position)])
        self._unread = b"" if self.refusal is not None else bytes(data[position:])

    def _piece_bytes(self, data: memoryview, position: int) -> int:
        """Return how many bytes to parse: to the end of a head or body, if that is known."""
        if self.is_in_body:
            return self._missing_bytes or _PIECE_BYTES
        end = bytes(data[position : position + _PIECE_BYTES]).find(_HEAD_END)
        return _PIECE_BYTES if end < 0 else end + len(_HEAD_END)

    def resume(self) -> None:
        """Parse what was kept."""
        if self._unread:
            self.feed(b"")

    def end(self) -> None:
        """Drop everything that has arrived, and stop."""
        for incoming in self.requests:
            incoming.reservation.release()
        self.requests.clear()
        self._reservation.release()
        self._begin()
        self._unread = b""

    def _parse(self, piece: memoryview) -> int:
        """Parse a piece; return how many of its bytes were parsed."""
        parsed = len(piece)
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            parsed = upgrade.args[0]
            self._ignore_upgrade()
        except httptools.HttpParserError as error:
            self.refusal = self.refusal or make_refusal(
                400, "malformed", f"This is not an HTTP/1.1 request: {error}"
            )
        if self.is_in_head or self._is_chunked:
            self._check_overhead(parsed)
        return parsed

    def _check_overhead(self, parsed: int) -> None:
        """Refuse an endless header, trailer or chunk extension, for which the parser calls no callback."""
        if self.refusal is not None:
            return
        if self.is_in_head:
            self._fed_bytes += parsed
            # The first piece may begin with the end of the request before.
            if self._fed_bytes > MAX_HEAD_BYTES + _PIECE_BYTES:
                self.refusal = _too_long_a_head()
        elif self.is_in_body:
            self._framing_bytes += parsed
            if self._framing_bytes > MAX_HEAD_BYTES + _PIECE_BYTES:
                reason = f"Trailers and extensions of chunks may have at most {MAX_HEAD_BYTES} bytes"
                self.refusal = make_refusal(431, "too large", reason)

    def _ignore_upgrade(self) -> None:
        """Parse a request without its Upgrade header: Java's HTTP client always sends one."""
        method, url, headers = self._parser.get_method(), self._url, self._headers
        if method == b"CONNECT":
            self.refusal = make_refusal(405, "method", "The agent is not a proxy", ("Allow", "POST"))
            return
        kept = [header for header in headers if header[0].lower() not in (b"upgrade", b"connection")]
        head = b"".join(b"%b: %b\r\n" % header for header in kept)
        self._parser = httptools.HttpRequestParser(self)
        self._begin()
        self.began -= 1
        self._parse(memoryview(b"%b %b HTTP/1.1\r\n%b\r\n" % (method, url, head)))

    def _refuse(self, answer: Response) -> NoReturn:
        self.refusal = answer
        raise _StopReading

    # Callbacks of httptools. An exception stops the parser.

    def on_message_begin(self) -> None:  # noqa: D102 (httptools' own)
        self.is_in_head = True
        self.began += 1

    def on_url(self, url: bytes) -> None:  # noqa: D102 (httptools' own)
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102 (httptools' own)
        if self.is_in_body:
            return  # a trailer: ignored
        self._headers.append((name, value))
        if len(self._headers) > MAX_HEADERS:
            self._refuse(make_refusal(431, "too large", f"A request may have at most {MAX_HEADERS} headers"))
        self._count_head(len(name) + len(value) + len(": \r\n"))

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(_too_long_a_head())

    def on_headers_complete(self) -> None:  # noqa: D102 (httptools' own)
        if self._parser.should_upgrade():
            return
        self._request = request = Request.of(
            self._parser.get_method(), self._url, self._headers, self._is_trusted
        )
        self._headers = []
        self.is_in_head, self.is_in_body = False, True
        refusal = self._gate.refuse_head(request)
        if refusal is not None:
            self._refuse(refusal)
        self._missing_bytes = int(request.headers.get("content-length", 0))
        self._is_chunked = "transfer-encoding" in request.headers
        self._expects = request.headers.get("expect", "").lower() == "100-continue"

    def on_chunk_header(self) -> None:  # noqa: D102 (httptools' own)
        self._framing_bytes -= _CHUNK_LINE_BYTES

    def on_body(self, chunk: bytes) -> None:  # noqa: D102 (httptools' own)
        size = len(chunk)
        refusal = self._gate.refuse_size(size, self._reservation.size + size)
        if refusal is not None or not self._reservation.grow(size):
            self._refuse(refusal or make_refusal(429, "busy", "Too many request bodies are arriving"))
        if size == self._missing_bytes and self._body is None:
            self._whole = chunk
        else:
            self._body = self._body or BytesIO()
            self._body.write(chunk)
        self._missing_bytes = max(0, self._missing_bytes - size)
        self._framing_bytes -= size

    def on_message_complete(self) -> None:  # noqa: D102 (httptools' own)
        if self._parser.should_upgrade():
            return
        is_http_1_1 = self._parser.get_http_version() == "1.1"
        keep_alive = is_http_1_1 and self._parser.should_keep_alive()
        body = self._whole if self._body is None else self._body.getvalue()
        request = Request(*self._request[:-1], body)  # _replace() takes three times as long
        self.requests.append(Incoming(request, self._reservation, keep_alive, is_http_1_1))
        self._reservation = BodyReservation(self._gate.budget)
        self._begin()


def _too_long_a_head() -> Response:
    return make_refusal(431, "too large", f"A request's head may have at most {MAX_HEAD_BYTES} bytes")
