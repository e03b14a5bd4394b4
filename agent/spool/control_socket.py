"""Commands reach a spool here, whether or not an agent uses it: through the agent, or directly.

An agent listens at a unix socket next to its spool file. Every user who may write the spool may use the
socket; it needs no setting and no port. Each connection carries one request, a line of JSON, and one reply.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
from msgspec import Meta

from kaspan.agent.spool.dead_letters import DeadLetter, DeadLetters, Integer, Selection
from kaspan.agent.spool.lock import SpoolError, SpoolInUseError
from kaspan.agent.spool.recovery import Recovered, recover
from kaspan.agent.spool.spool import Spool
from kaspan.config.errors import escaped

SUFFIX = ".control"
REQUEST_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 300.0
"""Replaying or purging very many dead letters takes minutes."""
RETRY_S = 1.0
"""Pause before the next attempt when a connection cannot be accepted, for example without descriptors."""
_MAX_REQUEST_BYTES = 1024 * 1024
_MAX_PATH_BYTES = 107  # sun_path of unix(7), less the zero at its end

_log = logging.getLogger("kaspan.agent")


class Find(msgspec.Struct, frozen=True, tag=True):
    """List dead letters without their spans; the reply has `letters`."""

    selection: Selection
    after_id: Integer = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class Show(msgspec.Struct, frozen=True, tag=True):
    """Return one dead letter with its span; the reply has it in `letters`, or none."""

    id: Integer


class Replay(msgspec.Struct, frozen=True, tag=True):
    """Put dead letters back among the spans to deliver; the reply has `count`."""

    selection: Selection


class Purge(msgspec.Struct, frozen=True, tag=True):
    """Delete dead letters; the reply has `count`."""

    selection: Selection


class Recover(msgspec.Struct, frozen=True, tag=True):
    """Put what can be read of the damaged spool at `path` into the spool; the reply has `recovered`."""

    path: bytes


Request = Find | Show | Replay | Purge | Recover


class Reply(msgspec.Struct, frozen=True):
    """The result of a request. `error`, for people, says that it was not done, or not completely."""

    letters: tuple[DeadLetter, ...] = ()
    count: int = 0
    recovered: Recovered | None = None
    error: str = ""


_decode_request = msgspec.json.Decoder(Request).decode
_decode_answer = msgspec.json.Decoder(Reply).decode


def perform(spool: Spool, request: Request) -> Reply:
    """Do a request. Never raises: the reply names what failed."""
    letters = DeadLetters(spool)
    try:
        if isinstance(request, Recover):
            return Reply(recovered=recover(spool, os.fsdecode(request.path)))
        if isinstance(request, Find):
            return Reply(tuple(letters.find(request.selection, request.after_id, request.limit)))
        if isinstance(request, Show):
            letter = letters.get(request.id)
            return Reply((letter,) if letter else ())
        if isinstance(request, Replay):
            return Reply(count=letters.replay(request.selection))
        return Reply(count=letters.purge(request.selection))
    except Exception as error:  # noqa: BLE001 (the reply says it; the next request is answered)
        return Reply(error=escaped(str(error)) or type(error).__name__)


class ControlSocket:
    """Answers requests about a spool, one at a time, from `run` until `stop`.

    Where the socket cannot be created the agent works without it, and the log says why.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._path = spool.path + SUFFIX
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._stopping = threading.Event()
        self._is_open = False
        try:
            self._open()
        except OSError as error:
            _log.warning("commands cannot reach the spool while this agent runs: %s: %s", self._path, error)

    def _open(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            # This process holds the spool's lock, so a socket that is there is left from an agent that ended.
            if not stat.S_ISSOCK(os.lstat(self._path).st_mode):
                raise FileExistsError("exists and is not a socket")
            os.unlink(self._path)
        with _address(self._path) as address:
            self._listening.bind(address)
        # Nobody can connect until it listens, so nobody connects while it has the umask's mode.
        os.chmod(self._path, 0o600)
        self._listening.listen(8)
        self._is_open = True

    def run(self) -> None:
        """Answer requests until `stop` is called; returns at once without a socket."""
        while self._is_open and not self._stopping.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError as error:
                _log.debug("%s: no connection can be accepted: %s", self._path, error)
                self._stopping.wait(RETRY_S)
                continue
            with connection:
                try:
                    self._serve(connection)
                except OSError as error:
                    _log.debug("%s: %s", self._path, error)
        self._listening.close()

    def _serve(self, connection: socket.socket) -> None:
        received = _line(connection, REQUEST_TIMEOUT_S, _MAX_REQUEST_BYTES)
        connection.settimeout(REQUEST_TIMEOUT_S)
        try:
            request = _decode_request(received)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            answer = Reply(
                error=f"the agent does not understand this request, and may be of another version: {error}"
            )
        else:
            answer = perform(self._spool, request)
        connection.sendall(msgspec.json.encode(answer) + b"\n")

    def stop(self) -> None:
        """Make `run` return, and remove the socket. Any thread may call it."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        if self._is_open:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)


def ask(path: str, max_bytes: int, request: Request) -> Reply:
    """Do a request: by the agent that uses the spool at `path`, or in this process if none does.

    Blocks for up to ANSWER_TIMEOUT_S, with very many dead letters. Raises SpoolError.
    """
    if not os.path.exists(path):
        raise SpoolError(
            f"agent.spool.path: {path} does not exist: no agent has run with these settings, or it ran as "
            "another user"
        )
    try:
        spool = Spool(path, max_bytes)
    except SpoolInUseError as held:
        return _ask_agent(path + SUFFIX, request, held)
    try:
        return perform(spool, request)
    finally:
        spool.close()


def _ask_agent(path: str, request: Request, held: SpoolInUseError) -> Reply:
    try:
        if os.lstat(path).st_uid not in (0, os.geteuid()) and os.geteuid() != 0:
            raise PermissionError("the socket belongs to another user")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_TIMEOUT_S)
            with _address(path) as address:
                connection.connect(address)
            connection.sendall(msgspec.json.encode(request) + b"\n")
            return _decode_answer(_line(connection, ANSWER_TIMEOUT_S))
    except (OSError, msgspec.MsgspecError) as error:
        raise SpoolError(
            f"the agent that uses the spool does not answer at {path}: {error}; {held}"
        ) from error


def _line(connection: socket.socket, timeout_s: float, max_bytes: int | None = None) -> bytes:
    """Read to the end of a line or of the connection. Raises OSError if it is too long or too slow."""
    received = bytearray()
    deadline_s = time.monotonic() + timeout_s
    while not received.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline_s - time.monotonic()))
        piece = connection.recv(65536)
        if not piece:
            break
        received += piece
        if max_bytes is not None and len(received) > max_bytes:
            raise OSError("the request is too long")
    return bytes(received)


@contextmanager
def _address(path: str) -> Iterator[str]:
    """Yield the address of a socket. A path too long for the system goes through its open directory."""
    if len(os.fsencode(path)) <= _MAX_PATH_BYTES:
        yield path
        return
    directory, name = os.path.split(path)
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)
