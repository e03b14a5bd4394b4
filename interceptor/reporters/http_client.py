"""An HTTP client for reports: one connection for each, closed after it."""

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
    # Not traced: else each report would make spans that are reported in turn.
    "b3": "0",
    "User-Agent": "kaspan-interceptor",
    "Connection": "close",
}


class Response(NamedTuple):
    """The response to a report: its status, a text for people, and how long to wait before the next (s)."""

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

    No connection stays open between reports. A process that becomes a daemon closes all descriptors; the
    number of an open connection would then belong to another file, and the next report would go into that.
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
            # Made once: to read the system's certificates takes longer than a report.
            context = ssl.create_default_context()
            self._connect = functools.partial(http.client.HTTPSConnection, parts.netloc, context=context)
        else:
            self._connect = functools.partial(http.client.HTTPConnection, parts.netloc)

    def post(self, spans: list[bytes], timeout_s: float) -> Response:
        """Post spans, each Zipkin v2 JSON, and return the response.

        Blocks for up to `timeout_s` in each step of the exchange, and while the host's name is resolved.
        Raises OSError and HTTPException, and ValueError and others for an address that is not valid.
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
