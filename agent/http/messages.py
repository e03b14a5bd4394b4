"""A request as a handler gets it, and the response that it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import NamedTuple, Protocol

PIECE_BYTES = 64 * 1024
"""A longer body is sent in pieces of about this size, each when the client has taken the one before."""
ACCEPTED = 202
TEXT = "text/plain; charset=utf-8"
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class Request(NamedTuple):
    """One request. Header names are in lower case; of a repeated header the first value counts.

    `is_trusted`: it came through a listener that needs no token.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    is_trusted: bool
    body: bytes = b""

    @classmethod
    def of(cls, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]], is_trusted: bool) -> Request:
        """Make a request, without its body, from the parser's results."""
        target = url.decode("latin-1")
        if "://" in target[:8]:  # the absolute form, as sent to a proxy
            target = "/" + target.partition("://")[2].partition("/")[2]
        path, _, query = target.partition("?")
        named = {name.lower().decode("latin-1"): value.decode("latin-1") for name, value in reversed(headers)}
        return cls(method.decode("latin-1"), path, query, named, is_trusted)


class BodyStream(Protocol):
    """A body that is made while it is sent."""

    async def read(self) -> bytes:
        """Return the next piece, nothing at the end. Raises StreamError if the rest cannot be made."""

    def close(self) -> None:
        """Free what the body holds: it was sent, or its client is gone. Does not block."""


class StreamError(Exception):
    """The rest of a body cannot be made; the text says why."""


class Response(NamedTuple):
    """The response to a request. `refusal` is the reason in the counters, empty if it was not refused.

    With a `stream` the body is what it yields, and `body` is empty.
    """

    status: int
    body: bytes = b""
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()
    refusal: str = ""
    stream: BodyStream | None = None

    def encode(self, date: str, keep_alive: bool, without_body: bool = False) -> bytes:
        """Return the response as bytes to send, of one with a `body`."""
        head = self.encode_head(date, keep_alive, f"Content-Length: {len(self.body)}")
        return head if without_body else head + self.body

    def encode_head(self, date: str, keep_alive: bool, framing: str) -> bytes:
        """Return the head; `framing` is the header that says where the body ends, empty for none."""
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, '')}", f"Date: {date}"]
        if self.body or self.stream is not None:
            lines.append(f"Content-Type: {self.content_type}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if framing:
            lines.append(framing)
        if not keep_alive:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


Handler = Callable[[Request], Awaitable[Response]]


def make_refusal(status: int, refusal: str, reason: str, *headers: tuple[str, str]) -> Response:
    """Make the response to a refused request, with a line of text that says why."""
    return Response(status, f"{reason}\n".encode(), headers=headers, refusal=refusal)
