"""A stand-in for Zipkin's collector that remembers what it took; tests tell it what to answer."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Response(NamedTuple):
    """What a report is answered with; `is_lost`: by a reset of the connection, whatever became of its spans.

    What was decided is done before `delay_s`, and said after it, with a pause of `drip_s` before each byte.
    """

    status: int = 202
    text: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    is_lost: bool = False
    drip_s: float = 0.0


class Report(NamedTuple):
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> bytes:
        """The body, unpacked."""
        return gzip.decompress(self.body) if self.headers.get("Content-Encoding") == "gzip" else self.body

    @property
    def spans(self) -> list[dict[str, Any]]:
        """The spans of a report in JSON, as Zipkin reads them: up to the list's end, and not behind it."""
        text = self.content.decode("utf-8", "replace")
        spans: list[dict[str, Any]] = json.JSONDecoder(strict=False).raw_decode(text)[0]
        return spans


class ZipkinStub:
    """Listens on a free port of the loopback until `close`; `port` starts it again where one has been.

    `answer` decides on each report; the spans of those answered 202 count as stored, by id, if they are JSON.
    With `tls` it speaks HTTPS.
    """

    def __init__(
        self,
        answer: Callable[[Report], Response] | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.answer = answer or (lambda report: Response())
        self.reports: list[Report] = []
        self.stored: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        zipkin_stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30
            wbufsize = 1 << 16  # head and text in two packets would wait for each other, 40 ms

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = zipkin_stub._take(Report(self.path, dict(self.headers), body))
                zipkin_stub._closing.wait(answer.delay_s)
                if answer.is_lost:
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
                    self.close_connection = True
                    return
                if answer.drip_s:
                    self._drip(answer)
                    return
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.text)))
                self.end_headers()
                self.wfile.write(answer.text.encode())

            def _drip(self, answer: Response) -> None:
                said = (
                    f"HTTP/1.1 {answer.status} ?\r\nContent-Length: {len(answer.text)}\r\n\r\n{answer.text}"
                )
                for byte in said.encode():
                    if zipkin_stub._closing.wait(answer.drip_s):
                        break
                    self.connection.sendall(bytes([byte]))

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *arguments: object) -> None:
                """A killed agent breaks off; that is what the tests are for."""

        self._server = Server(("127.0.0.1", port), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def _take(self, report: Report) -> Response:
        answer = self.answer(report)
        with self._lock:
            self.reports.append(report)
            if answer.status == 202 and report.headers.get("Content-Type") != "application/x-protobuf":
                self.stored.update(span["id"] for span in report.spans)
        return answer

    def close(self) -> None:
        """Stop listening; the port is free afterwards."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
