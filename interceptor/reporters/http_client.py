"""Where spans go by HTTP: one request a report, and the connection closed after it."""

from __future__ import annotations

import functools
import http.client
import socket
import ssl
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from kaspan.wire.span import SPANS_PATH

_MAX_ANSWER_BYTES = 500
_HEADERS = {
    "Content-Type": "application/json",
    # A trace of every report would be reported in its turn.
    "b3": "0",
    "User-Agent": "kaspan-interceptor",
    "Connection": "close",
}


class Response(NamedTuple):
    """What a report was answered: the status, a text for people, and how long it asks to be left alone."""

    status: int
    text: str
    retry_after_s: float


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class ReportClient:
    """An agent or Zipkin at `address`, a value of interceptor.agent other than `ring`.

    A connection is held for one report only: between reports there is no descriptor of ours that a process
    which closes all of them could have closed, given to somebody else, and have us write into.
    """

    def __init__(self, address: str, token: str = "") -> None:
        parts = urlsplit(address.removeprefix("zipkin+"))
        self.address = address
        self._path = SPANS_PATH
        self._connect: functools.partial[Any]
        self._headers = _HEADERS | ({"Authorization": f"Bearer {token}"} if token else {})
        if parts.scheme == "unix":
            self._connect = functools.partial(_UnixConnection, address.removeprefix("unix://"))
            return
        if parts.path.strip("/"):
            self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        if parts.scheme == "https":
            # Made once: reading the system's certificates takes longer than a report.
            context = ssl.create_default_context()
            self._connect = functools.partial(http.client.HTTPSConnection, parts.netloc, context=context)
        else:
            self._connect = functools.partial(http.client.HTTPConnection, parts.netloc)

    def post(self, spans: list[bytes], timeout_s: float) -> Response:
        """Report spans, Zipkin v2 JSON each, and return what was answered.

        Blocks for up to `timeout_s` in each step of the exchange, and for the resolver where the host is a
        name. Raises OSError and HTTPException, and whatever Python has for an address that cannot be.
        """
        connection: http.client.HTTPConnection = self._connect(timeout=timeout_s)
        try:
            connection.request("POST", self._path, b"[%b]" % b",".join(spans), self._headers)
            answer = connection.getresponse()
            text = answer.read(_MAX_ANSWER_BYTES).decode("utf-8", "replace")
            said = f"HTTP {answer.status} {answer.reason} {' '.join(text.split())}".strip()
            retry_after = answer.headers.get("Retry-After", "").strip()
            wait_s = float(retry_after[:9]) if retry_after.isdecimal() and retry_after.isascii() else 0.0
            return Response(answer.status, said, wait_s)
        finally:
            connection.close()
