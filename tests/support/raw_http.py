"""A client of the agent's HTTP that can do what no decent client does."""

from __future__ import annotations

import socket
from typing import NamedTuple

TIMEOUT_S = 30.0


class Response(NamedTuple):
    """One answer: header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class RawHttpClient:
    """One connection, kept until it is closed; `address` is a host and port, or a socket's path."""

    def __init__(self, address: tuple[str, int] | str) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(address)
        self._rest = b""

    def send(self, raw: bytes) -> None:
        """Send bytes as they are."""
        self.socket.sendall(raw)

    def post(self, body: bytes, path: str = "/api/v2/spans", **headers: str) -> Response:
        """Post a body; `content_type="text/plain"` becomes the header content-type."""
        self.send(request(body, path, **headers))
        return self.answer()

    def get(self, path: str, method: str = "GET", **headers: str) -> Response:
        """Ask for something; headers as for `post`."""
        named = {name.replace("_", "-"): value for name, value in {"host": "agent", **headers}.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        self.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
        return self.answer(without_body=method == "HEAD")

    def answer(self, without_body: bool = False) -> Response:
        """Read one answer; fails when the connection ends before it is whole."""
        while b"\r\n\r\n" not in self._rest:
            self._read()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if "chunked" in headers.get("transfer-encoding", "") and not without_body:
            body = self._chunks()
        else:
            body = self._take(0 if without_body else int(headers.get("content-length", 0)))
        return Response(int(status_line.split()[1]), headers, body)

    def _chunks(self) -> bytes:
        chunks = []
        while not chunks or chunks[-1]:
            while b"\r\n" not in self._rest:
                self._read()
            size, _, self._rest = self._rest.partition(b"\r\n")
            chunks.append(self._take(int(size, 16)))
            assert self._take(2) == b"\r\n"
        return b"".join(chunks)

    def _take(self, length: int) -> bytes:
        pieces = [self._rest]
        while sum(map(len, pieces)) < length:
            pieces.append(self._received())
        whole = b"".join(pieces)
        self._rest = whole[length:]
        return whole[:length]

    def _read(self) -> None:
        self._rest += self._received()

    def _received(self) -> bytes:
        received = self.socket.recv(65536)
        if not received:
            raise EOFError("the agent closed the connection")
        return received

    def is_closed(self) -> bool:
        """Whether the agent has closed the connection, or does before the timeout."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        """Go away."""
        self.socket.close()


def request(body: bytes, path: str = "/api/v2/spans", method: str = "POST", **headers: str) -> bytes:
    """Return a whole request with a length."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in {"host": "agent", **headers}.items()]
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, f"content-length: {len(body)}"])
    return head.encode() + b"\r\n\r\n" + body
