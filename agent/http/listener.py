"""The agent's listeners: opened first, so that the agent refuses to start if it cannot listen."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address

from kaspan.agent.http.errors import ListenError
from kaspan.config import schema

_BACKLOG = 128
_SOCKET_MODE = 0o660
_DIRECTORY_MODE = 0o755
_MAX_PATH_BYTES = 107  # sun_path of unix(7), less the zero at its end

_log = logging.getLogger("kaspan.agent")


@dataclass(frozen=True)
class Listener:
    """A listening socket: TCP, or a unix socket at `path`, where file permissions decide who may connect."""

    name: str
    socket: socket.socket
    tls: ssl.SSLContext | None = None
    path: str = ""

    def renew(self, settings: schema.Tls) -> None:
        """Read certificate and key again, for new clients.

        Raises ListenError, and then the old ones stay in use.
        """
        if self.tls is not None:
            _tls(settings)  # checks the pair: a wrong one would leave this listener without a certificate
            self.tls.load_cert_chain(settings.cert, settings.key, password="")

    def close(self) -> None:
        """Stop listening, and remove the unix socket."""
        self.socket.close()
        if self.path:
            with suppress(FileNotFoundError):
                os.unlink(self.path)


def open_listeners(settings: schema.Agent) -> list[Listener]:
    """Open the listeners of agent.listen and agent.socket. Raises ListenError, and then closes all."""
    opened: list[Listener] = []
    try:
        if settings.listen:
            opened.append(_open_tcp(settings))
        if settings.socket:
            opened.append(_open_unix(settings.socket))
    except ListenError:
        for listener in opened:
            listener.close()
        raise
    return opened


def _open_tcp(settings: schema.Agent) -> Listener:
    host, _, port = settings.listen.rpartition(":")
    tls = _tls(settings.tls)
    try:
        address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        family, kind, protocol, _, bound = address
        listening = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise ListenError(f"agent.listen: {settings.listen} cannot be used: {error}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(bound)
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        hint = "; stop what listens there, or set another address or none" if _is_in_use(error) else ""
        raise ListenError(
            f"agent.listen: {settings.listen} cannot be listened on: {error.strerror}{hint}"
        ) from error
    if not ip_address(bound[0]).is_loopback:
        _warn_of_strangers(settings, tls)
    scheme, port = "https" if tls else "http", str(listening.getsockname()[1])
    return Listener(f"{scheme}://{host}:{port}", listening, tls)


def _warn_of_strangers(settings: schema.Agent, tls: ssl.SSLContext | None) -> None:
    if not settings.token:
        _log.warning(
            "agent.listen: ANYBODY who reaches %s can report spans%s, since agent.token is not set",
            settings.listen,
            " and read all that are in the store" if settings.store is not None else "",
        )
    elif tls is None:
        _log.warning("agent.listen: agent.token crosses the network unencrypted, since agent.tls is not set")


def _is_in_use(error: OSError) -> bool:
    return error.errno == errno.EADDRINUSE


def _tls(settings: schema.Tls) -> ssl.SSLContext | None:
    if not settings.cert and not settings.key:
        return None
    for name, value in (("cert", settings.cert), ("key", settings.key)):
        if not value:
            raise ListenError(f"agent.tls.{name} is missing; TLS needs a certificate and its key")
        if not os.access(value, os.R_OK):
            raise ListenError(f"agent.tls.{name}: {value} does not exist, or this user may not read it")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # password="": OpenSSL would ask for the passphrase of a key on the terminal.
        context.load_cert_chain(settings.cert, settings.key, password="")
    except (ssl.SSLError, OSError) as error:
        raise ListenError(
            f"agent.tls: {settings.cert} and {settings.key} cannot be used together ({error}); the rule is a "
            "certificate and its key in PEM format, the key without a passphrase"
        ) from error
    return context


def _open_unix(path: str) -> Listener:
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ListenError(
            f"agent.socket: {path} is longer than the {_MAX_PATH_BYTES} bytes that Linux allows"
        )
    with _explained(path):
        _check_directory(path)
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(path)
            # Nobody can connect until it listens, so nobody connects while it has the umask's mode.
            os.chmod(path, _SOCKET_MODE)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
    return Listener(f"unix://{path}", listening, path=path)


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ListenError(
            f"agent.socket: {path} cannot be created: {error.strerror}; set it to a path in a directory "
            'where this user may write, or to "" for none'
        ) from error


def _check_directory(path: str) -> None:
    """Refuse a directory in which other users could replace the socket."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=_DIRECTORY_MODE, exist_ok=True)
    status = os.stat(directory)
    if status.st_uid not in (0, os.geteuid()):
        raise ListenError(
            f"agent.socket: {directory} belongs to uid {status.st_uid}, and must belong to root or to uid "
            f"{os.geteuid()}"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        raise ListenError(
            f"agent.socket: {directory} has mode {mode}, so others may replace the socket; make it 0755"
        )


def _remove_stale(path: str) -> None:
    """Remove the socket of an agent that is gone; refuse any other file at the path."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"agent.socket: {path} exists and is not a socket; set another path")
    if status.st_uid not in (0, os.geteuid()):
        raise ListenError(f"agent.socket: {path} belongs to uid {status.st_uid}; set another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except (TimeoutError, BlockingIOError):
            pass  # a process listens, but is busy
    raise ListenError(f"agent.socket: {path} is in use by another process; stop it or set another path")
