"""Sends to Zipkin's HTTP collector: POST /api/v2/spans with a list of spans in JSON or proto3.

Zipkin answers 202 when it has decoded and queued the spans. A JSON list must start with `[` at the very first
byte. Source: zipkin2-api.yaml, and ZipkinHttpCollector.
"""

from __future__ import annotations

import hashlib
import http.client
import select
import ssl
import time
import zlib
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from urllib.parse import urlsplit

from kaspan.agent.codec.proto3_encode import encode
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender
from kaspan.agent.senders.deadline import DeadlineSocket
from kaspan.agent.senders.http_auth import headers_of, tls_of
from kaspan.agent.senders.secrets import Secrets
from kaspan.config.display import mask
from kaspan.config.schema import ZipkinSender as Settings
from kaspan.wire.span import SPANS_PATH

_BODY_REFUSED = (400, 413, 422)
_CONFIGURATION_HINT = {
    401: "the server wants credentials; see username and token of the sender",
    403: "the server does not allow it",
    404: "there is no collector at this address; see the url of the sender",
}
_MAX_ANSWER_BYTES = 64 * 1024
_GZIP_LEVEL, _GZIP_WINDOW_BITS = 1, 31  # the fastest level; 15 bits, plus 16 for gzip's header and trailer
_HEADERS = {
    # Zipkin may trace itself; without this it would report a trace of every report.
    "b3": "0",
    "User-Agent": "kaspan-agent",
}


class ZipkinSender(Sender):
    """Posts to a base URL (http://zipkin:9411) or the full URL of a collector, over one connection.

    Raises SettingError for settings that contradict each other, and for certificates that cannot be used.
    """

    def __init__(self, settings: Settings, wall_clock_s: Callable[[], float] = time.time) -> None:
        scheme, address, self._path = target(settings.url)
        self.name = f"zipkin {scheme}://{address}{_without_query(self._path)}"
        tls = tls_of(settings)
        headers = headers_of(settings)
        self._connection = (
            http.client.HTTPSConnection(address, timeout=settings.timeout_s, context=tls)
            if tls
            else http.client.HTTPConnection(address, timeout=settings.timeout_s)
        )
        self._timeout_s = settings.timeout_s
        overridden = {name.lower() for name in headers}
        self._headers = {k: v for k, v in _HEADERS.items() if k.lower() not in overridden} | headers
        # Masks abc of `Basic abc` and `Bearer abc`, too.
        credentials = [text for value in headers.values() for text in (value, value.rpartition(" ")[2])]
        self._secrets = Secrets((settings.password, settings.token, *credentials))
        self._is_proto3 = settings.format == "proto3"
        self._is_gzip = not _is_loopback(settings.url) if settings.gzip is None else settings.gzip
        self._wall_clock_s = wall_clock_s

    def send(self, spans: bytes, last_id: int) -> Outcome:  # noqa: ARG002 (part of the interface)
        """Post one list and judge the answer. Connecting, sending and receiving have the timeout each."""
        body, headers = self._encode_body(spans)
        headers["Content-Length"] = str(sum(map(len, body)))
        try:
            connected = self._connect()
            connected.allow(self._timeout_s)
            self._connection.request("POST", self._path, body, headers)
            connected.allow(self._timeout_s)
            answer = self._connection.getresponse()
            text = answer.read(_MAX_ANSWER_BYTES)
            if not answer.isclosed():
                self._connection.close()  # a longer answer is not read
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return Failed(self._secrets.masked(_described(error)))
        return self._judge(answer, text)

    def _encode_body(self, spans: bytes) -> tuple[tuple[bytes, ...], dict[str, str]]:
        """Encode a list in the configured format; return the body in pieces, and the headers."""
        encoded = encode(spans) if self._is_proto3 else None
        headers = self._headers.copy()
        if encoded is None:
            # In pieces: joining brackets, spans and headers would copy half a megabyte three times.
            body: tuple[bytes, ...] = (b"[", spans, b"]")
            headers["Content-Type"] = "application/json"
        else:
            body = (encoded,)
            headers["Content-Type"] = "application/x-protobuf"
        if self._is_gzip:
            zipping = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW_BITS)
            body = (*map(zipping.compress, body), zipping.flush())
            headers["Content-Encoding"] = "gzip"
        return body, headers

    def _judge(self, answer: http.client.HTTPResponse, text: bytes) -> Outcome:
        status = answer.status
        if status == http.HTTPStatus.ACCEPTED:
            return Delivered()
        message = " ".join(text[:500].decode("utf-8", "replace").split())
        reason = self._secrets.masked(f"HTTP {status} {answer.reason}" + (f": {message}" if message else ""))
        if status in _BODY_REFUSED:
            return Refused(reason)
        if 200 <= status < 300:
            type_ = answer.headers.get("Content-Type", "nothing")
            return Failed(
                f"HTTP {status} {answer.reason} with {type_[:100]}: Zipkin answers 202, so this is not "
                "Zipkin; see the url of the sender"
            )
        if 300 <= status < 400:
            where = mask("url", self._secrets.masked(answer.headers.get("Location", "elsewhere")))
            return Failed(f"HTTP {status}: redirected to {where}; set the url of the sender to that address")
        if status in _CONFIGURATION_HINT:
            return Failed(f"{reason} ({_CONFIGURATION_HINT[status]})")
        return Failed(reason, self._retry_after_s(answer.headers.get("Retry-After", "")))

    def _retry_after_s(self, value: str) -> float:
        """Return Retry-After in seconds: it is a number of seconds or a date; 0 for anything else."""
        if value.strip().isdecimal():
            return float(value[:9])
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - self._wall_clock_s())
        except (ValueError, OverflowError):
            return 0.0

    def _connect(self) -> DeadlineSocket:
        """Return the kept connection, or a new one.

        If a kept connection has something to read, the server has closed it: no answer is pending.
        """
        kept = self._connection.sock
        if isinstance(kept, DeadlineSocket):
            # Not select.select: it fails on descriptors from 1024 on, and every ring has one.
            readable = select.poll()
            readable.register(kept, select.POLLIN)
            if not readable.poll(0):
                return kept
            self._connection.close()
        self._connection.connect()
        made = DeadlineSocket(self._connection.sock)
        self._connection.sock = made
        return made

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _described(error: Exception) -> str:
    hint = ""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = " (see ca_file of the sender)"
    return (f"{type(error).__name__}: {error}" if str(error) else type(error).__name__) + hint


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _without_query(path: str) -> str:
    """Return a path for the name: a query, which may hold a secret, is replaced by a short hash."""
    path, mark, query = path.partition("?")
    return f"{path}?{hashlib.sha256(query.encode()).hexdigest()[:8]}" if mark else path


def target(url: str) -> tuple[str, str, str]:
    """Split a sender's url into scheme, host with port, and path with query; a base gets Zipkin's path."""
    parts = urlsplit(url)
    address = parts.netloc.rpartition("@")[2]
    path = parts.path.rstrip("/")
    if not path.endswith(SPANS_PATH):
        path += SPANS_PATH
    return parts.scheme, address, path + (f"?{parts.query}" if parts.query else "")
