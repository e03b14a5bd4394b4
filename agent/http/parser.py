"""Takes requests out of the bytes of one connection, within limits of size.

llhttp, Node's parser, reads the bytes (httptools). What it leaves open is decided here: how large each part
of a request may be, and how many requests are read ahead of their answers.
"""

from __future__ import annotations

from collections import deque
from io import BytesIO
from typing import NamedTuple, NoReturn, Protocol

import httptools

from kaspan.agent.http.body_budget import BodyBudget, BodyReservation
from kaspan.agent.http.messages import Request, Response, make_refusal

MAX_HEAD_BYTES = 32 * 1024
"""Of a request's head; the trailers and the extensions of a body in chunks have as much again."""
MAX_HEADERS = 100
_PIECE_BYTES = 2048
"""So much is parsed at a time where a request may end: what is behind it waits unparsed, and costs no more
than its bytes. Parsed, a request of 20 bytes has 500."""
_HEAD_END = b"\r\n\r\n"
_CHUNK_LINE_BYTES = 24
"""So much beside its content each chunk may have: a length, line breaks, and a word of extension."""


class Incoming(NamedTuple):
    """A whole request, what its body holds of the room, and whether its client wants to go on after it."""

    request: Request
    reservation: BodyReservation
    keep_alive: bool


class Gate(Protocol):
    """Who decides what is read: the server."""

    budget: BodyBudget

    def refuse_head(self, request: Request) -> Response | None:
        """Refuse a request before its body is read."""

    def refuse_size(self, size: int, body_bytes: int) -> Response | None:
        """Refuse `size` more bytes of a body that has `body_bytes` with them."""


class _StopReading(Exception):
    """Ends the parsing at a refusal."""


class RequestReader:
    """Reads one connection's requests into `requests`, up to the first that is not taken: `refusal` says why.

    `began` counts the requests of which something came. Of the last of them `is_in_head` or `is_in_body` says
    what is missing. Nothing here blocks or raises.
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
        self._missing_bytes = 0  # of a body with a length
        self._is_chunked = False
        self._whole = b""
        self._body: BytesIO | None = None  # of a body that comes in pieces
        self.is_in_head = self.is_in_body = False

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits to be told that it may send the body."""
        return self.is_in_body and not self._reservation.size and self._expects

    def feed(self, data: memoryview | bytes) -> None:
        """Read on, up to the end of a request; what is behind it is kept for the next call."""
        data = memoryview(self._unread + data if self._unread else data)
        position = 0
        while position < len(data) and not self.requests and self.refusal is None:
            position += self._parse(data[position : position + self._piece_bytes(data, position)])
        self._unread = b"" if self.refusal is not None else bytes(data[position:])

    def _piece_bytes(self, data: memoryview, position: int) -> int:
        """Return how much to parse: up to the end of a head or body, where that can be known."""
        if self.is_in_body:
            return self._missing_bytes or _PIECE_BYTES
        end = bytes(data[position : position + _PIECE_BYTES]).find(_HEAD_END)
        return _PIECE_BYTES if end < 0 else end + len(_HEAD_END)

    def go_on(self) -> None:
        """Read what is kept."""
        if self._unread:
            self.feed(b"")

    def end(self) -> None:
        """Give up what is here, and read no more."""
        for incoming in self.requests:
            incoming.reservation.release()
        self.requests.clear()
        self._reservation.release()
        self._begin()
        self._unread = b""

    def _parse(self, piece: memoryview) -> int:
        """Parse a piece; how many of its bytes, is returned."""
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
        """Refuse what has no end and comes to no callback: a header, a trailer, an extension."""
        if self.refusal is not None:
            return
        if self.is_in_head:
            self._fed_bytes += parsed
            # The first piece may begin with the end of another request.
            if self._fed_bytes > MAX_HEAD_BYTES + _PIECE_BYTES:
                self.refusal = _too_long_a_head()
        elif self.is_in_body:
            self._framing_bytes += parsed
            if self._framing_bytes > MAX_HEAD_BYTES + _PIECE_BYTES:
                reason = f"Trailers and extensions of chunks may have at most {MAX_HEAD_BYTES} bytes"
                self.refusal = make_refusal(431, "too large", reason)

    def _ignore_upgrade(self) -> None:
        """Read a request as if it had not asked for another protocol: Java's own client always does."""
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

    # What httptools calls while it is fed. What is raised there ends the parsing.

    def on_message_begin(self) -> None:  # noqa: D102 (httptools' own)
        self.is_in_head = True
        self.began += 1

    def on_url(self, url: bytes) -> None:  # noqa: D102 (httptools' own)
        self._url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:  # noqa: D102 (httptools' own)
        if self.is_in_body:
            return  # a trailer, of which none has a meaning here
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
        keep_alive = self._parser.should_keep_alive() and self._parser.get_http_version() == "1.1"
        body = self._whole if self._body is None else self._body.getvalue()
        request = Request(*self._request[:-1], body)  # _replace() takes three times as long
        self.requests.append(Incoming(request, self._reservation, keep_alive))
        self._reservation = BodyReservation(self._gate.budget)
        self._begin()


def _too_long_a_head() -> Response:
    return make_refusal(431, "too large", f"A request's head may have at most {MAX_HEAD_BYTES} bytes")
