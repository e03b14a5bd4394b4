"""Send a request to the agent that runs on this machine, at the address in its settings."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator

from kaspan.config import schema

TIMEOUT_S = 10.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (a client, which does not listen)


class NoAnswerError(Exception):
    """No agent answers; the message says which addresses were tried, what came back, and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def ask(settings: schema.Agent, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one request to agent.socket, or to agent.listen if the socket does not answer.

    Returns the status and the body of the answer. Each step blocks for at most TIMEOUT_S. Raises
    NoAnswerError.
    """
    failures = []
    for name, connection in _connections(settings):
        headers = {"Authorization": f"Bearer {settings.token}"} if settings.token else {}
        try:
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{name}: {error or type(error).__name__}")
        finally:
            connection.close()
    if not failures:
        raise NoAnswerError(
            "agent.listen and agent.socket are both empty, so no agent can be asked; set one of them"
        )
    raise NoAnswerError(
        f"no agent answers ({'; '.join(failures)}); is it running, with the same settings as here?"
    )


def _connections(settings: schema.Agent) -> Iterator[tuple[str, http.client.HTTPConnection]]:
    if settings.socket:
        yield settings.socket, _UnixConnection(settings.socket)
    if settings.listen:
        host, _, port = settings.listen.rpartition(":")
        host = host.strip("[]")
        host = _ANY_ADDRESS.get(host, host)
        if settings.tls.cert:
            yield settings.listen, _tls_connection(host, int(port), settings.tls.cert)
        else:
            yield settings.listen, http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)


def _tls_connection(host: str, port: int, cert: str) -> http.client.HTTPSConnection:
    """Connect only to the holder of this certificate; its names and its signature do not matter."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cert)
    except OSError as error:
        raise NoAnswerError(f"agent.tls.cert: {cert} cannot be read: {error.strerror}") from error
    return http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
