"""Sends to Zipkin's HTTP collector: POST /api/v2/spans with a JSON list.

Zipkin answers 202 when it has decoded and queued the spans. The list must start with `[` at the very first
byte. Source: zipkin2-api.yaml, and ZipkinHttpCollector.
"""

from __future__ import annotations

import http.client
import select
import socket
import time
from base64 import b64encode
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_to_bytes, urlsplit

from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender

PATH = "/api/v2/spans"
TIMEOUT_S = 10.0
_BODY_REFUSED = (400, 413, 422)
_CONFIGURATION_HINT = {
    401: "it wants credentials",
    403: "it forbids this",
    404: "there is no collector at this address; see the url of the sender",
}
_MAX_ANSWER_BYTES = 64 * 1024
_HEADERS = {
    "Content-Type": "application/json",
    # Zipkin may trace itself; a trace of every report would be reported in its turn.
    "b3": "0",
    "User-Agent": "kaspan-agent",
}


class ZipkinSender(Sender):
    """Posts to `url`, a base (http://zipkin:9411) or the collector's full address; keeps one connection."""

    def __init__(
        self, url: str, timeout_s: float = TIMEOUT_S, wall_clock_s: Callable[[], float] = time.time
    ) -> None:
        scheme, self._address, self._path = target(url)
        self.name = f"zipkin {scheme}://{self._address}{self._path}"
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        self._connection = kind(self._address, timeout=timeout_s)
        self._headers = _HEADERS | _authorization(url)
        self._wall_clock_s = wall_clock_s

    def send(self, spans: bytes, last_id: int) -> Outcome:  # noqa: ARG002 (part of the interface)
        """Post one list and judge the answer; blocks for at most the timeout for each step."""
        self._drop_stale_connection()
        try:
            # In pieces: put together with its brackets and headers, half a megabyte is copied three times.
            headers = self._headers | {"Content-Length": str(len(spans) + 2)}
            self._connection.request("POST", self._path, (b"[", spans, b"]"), headers)
            answer = self._connection.getresponse()
            text = answer.read(_MAX_ANSWER_BYTES)
            if not answer.isclosed():
                self._connection.close()  # more than anyone needs to read
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Failed(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
        return self._judge(answer, text)

    def _judge(self, answer: http.client.HTTPResponse, text: bytes) -> Outcome:
        status = answer.status
        if 200 <= status < 300:
            return Delivered()
        said = " ".join(text[:500].decode("utf-8", "replace").split())
        reason = f"HTTP {status} {answer.reason}" + (f": {said}" if said else "")
        if status in _BODY_REFUSED:
            return Refused(reason)
        if 300 <= status < 400:
            where = answer.headers.get("Location", "elsewhere")
            return Failed(f"HTTP {status}: it sends reports to {where}; set the url of the sender to that")
        if status in _CONFIGURATION_HINT:
            return Failed(f"{reason} ({_CONFIGURATION_HINT[status]})")
        return Failed(reason, self._retry_after_s(answer.headers.get("Retry-After", "")))

    def _retry_after_s(self, value: str) -> float:
        """Retry-After in seconds: it comes as seconds or as a date; anything else is no wish."""
        if value.strip().isdecimal():
            return float(value[:9])
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - self._wall_clock_s())
        except (ValueError, OverflowError):
            return 0.0

    def _drop_stale_connection(self) -> None:
        """A kept connection with something to read was closed by the server: nothing can be pending on it."""
        kept: socket.socket | None = self._connection.sock
        if kept is None:
            return
        # Not select.select: that fails on descriptors from 1024 on, and every ring takes one.
        readable = select.poll()
        readable.register(kept, select.POLLIN)
        if readable.poll(0):
            self._connection.close()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _authorization(url: str) -> dict[str, str]:
    """Basic authorization of a user and password in the url."""
    user = urlsplit(url).netloc.rpartition("@")[0]
    return {"Authorization": "Basic " + b64encode(unquote_to_bytes(user)).decode()} if user else {}


def target(url: str) -> tuple[str, str, str]:
    """Take a sender's url apart into scheme, host with port, and path with query; a base gets the path."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    path = parts.path.rstrip("/")
    if not path.endswith(PATH):
        path += PATH
    return parts.scheme, address, path + (f"?{parts.query}" if parts.query else "")
