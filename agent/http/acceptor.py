"""Accepts connections up to a limit, which covers TLS handshakes too, and survives a lack of descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
from collections import Counter
from collections.abc import Callable, Sequence

from kaspan.agent.http.connection import Connection
from kaspan.agent.http.listener import Listener

PAUSE_S = 0.1
"""How long the server accepts no connections after it found no free descriptor."""
OTHER_DESCRIPTORS = 32
"""How many files the agent opens in addition to connections and rings: spool, targets, listeners."""
_ACCEPTED_AT_ONCE = 16
_TRY_LATER = (BlockingIOError, InterruptedError, ConnectionAbortedError)
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_log = logging.getLogger("kaspan.agent")


class Acceptor:
    """Accepts connections, and holds the open ones in order of arrival.

    With more than `limit`, the connection that is idle longest is closed, first among those that have not
    delivered spans: any number of strangers cannot push out a client. Each that is closed for this is counted
    in `refusals`. All methods but `adjust` run in the event loop's thread.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listeners: Sequence[Listener], refusals: Counter[str]
    ) -> None:
        self.connections: dict[Connection, None] = {}
        self.limit = 0
        self._loop = loop
        self._listeners = listeners
        self._refusals = refusals
        self._is_open = self._is_crowded = self._has_warned = False

    def adjust(self, max_connections: int) -> None:
        """Set the limit: `max_connections`, but at most half of the descriptors, since rings need some."""
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = max(1, descriptors // 2 - OTHER_DESCRIPTORS)
        self.limit = max_connections if descriptors == resource.RLIM_INFINITY else min(max_connections, room)
        if self.limit < max_connections:
            _log.warning(
                "agent.max_connections: %d is more than this process may have open; the limit is %d, since "
                "RLIMIT_NOFILE (LimitNOFILE, ulimit -n) is %d",
                max_connections,
                self.limit,
                descriptors,
            )

    def open(self, connect: Callable[[Listener], Connection]) -> None:
        """Start to accept; `connect` makes the Connection for a client of a listener."""
        self._is_open = True
        for listener in self._listeners:
            listener.socket.setblocking(False)
            self._listen(listener, connect)

    def close(self) -> None:
        """Stop accepting."""
        self._is_open = False
        for listener in self._listeners:
            self._loop.remove_reader(listener.socket)

    def _listen(self, listener: Listener, connect: Callable[[Listener], Connection]) -> None:
        if self._is_open:
            self._loop.add_reader(listener.socket, self._accept, listener, connect)

    def _accept(self, listener: Listener, connect: Callable[[Listener], Connection]) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _ = listener.socket.accept()
            except _TRY_LATER:
                return
            except OSError as error:
                if error.errno not in _SHORTAGES:
                    raise
                self._pause_for_descriptor(listener, connect, error)
                return
            accepted.setblocking(False)
            connection = connect(listener)
            connection.open(accepted, listener.tls)
            self.connections[connection] = None
            if len(self.connections) <= self.limit:
                self._is_crowded = False
                continue
            if not self._is_crowded:
                self._is_crowded = True
                text = "more than %d connections: the longest idle are closed; see agent.max_connections"
                _log.warning(text, self.limit)
            self._close_longest_idle(connection)

    def _close_longest_idle(self, newest: Connection | None) -> None:
        """Close and count the longest idle connection; `newest` if there is no other, nothing without it."""
        idle = [other for other in self.connections if not other.is_answering and other is not newest]
        longest_idle = min(idle, key=lambda other: (other.has_delivered, other.since_s), default=newest)
        if longest_idle is not None:
            del self.connections[longest_idle]  # now, not when it is closed: it must not be chosen again
            self._refusals["connections"] += 1
            longest_idle.abort()

    def _pause_for_descriptor(
        self, listener: Listener, connect: Callable[[Listener], Connection], error: OSError
    ) -> None:
        """Close the longest idle connection, and pause accepting: clients that wait are not lost."""
        if not self._has_warned:
            self._has_warned = True
            _log.warning("no connection can be accepted: %s; raise LimitNOFILE (ulimit -n)", error.strerror)
        self._close_longest_idle(None)
        self._loop.remove_reader(listener.socket)
        self._loop.call_later(PAUSE_S, self._listen, listener, connect)
