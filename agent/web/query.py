"""One query, whose answer the threads of a pool make piece by piece, as fast as its client reads.

No query runs in the event loop's thread. A query that waits for its client holds no thread, and one whose
client is gone is not begun, or ends.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from kaspan.agent.http.messages import PIECE_BYTES, StreamError
from kaspan.store.reader import QueryLimitError

THREADS = 4
MAX_OPEN = 64
"""How many queries may run, wait for a thread, or be sent."""
MAX_LARGE = 8
"""How many of them may have more than FILL_BYTES: each holds some 25 MB while its client reads."""
MAX_WAIT_S = 11.0
"""How long a query may wait for a thread."""
FILL_BYTES = 256 * 1024
"""How much of an answer is made at a time. An error that comes later cuts the answer off."""
_MIN_GZIP_BYTES = 2048
_GZIP = 31  # the largest window, plus 16 for gzip's header and trailer
_NEVER = float("inf")
_LEVEL = 1  # 6 takes two and a half times as long, and makes the JSON of spans a fifth smaller

_log = logging.getLogger("kaspan.agent")
_current = threading.local()


def query_clock_s() -> float:
    """A monotonic clock for the store's reader, in seconds; for a query whose client is gone time is over.

    So the reader ends that query where it looks at its time limit.
    """
    query: Query | None = getattr(_current, "query", None)
    return _NEVER if query is not None and query.is_closed else time.monotonic()


class BusyError(Exception):
    """There are too many queries; the text says so."""


class QueryPool:
    """The threads that make answers, and how many queries they have. No method blocks."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.open_queries = self.large_queries = 0
        self.clock_s = clock_s
        self._threads = ThreadPoolExecutor(THREADS, "query")
        # Of its own, so that what a query holds is free before the queries that wait for a thread begin.
        self._ending = ThreadPoolExecutor(1, "query end")
        self._lock = threading.Lock()

    def begin(self, make: Callable[[], Iterator[bytes]]) -> Query:
        """Return a query whose answer is what `make` yields. Raises BusyError if there are too many."""
        with self._lock:
            if self.open_queries >= MAX_OPEN:
                raise BusyError(f"There are {MAX_OPEN} queries already; ask again")
            self.open_queries += 1
        return Query(self, make)

    def submit(self, work: Callable[[], bytes]) -> Future[bytes]:
        """Have a thread do this."""
        return self._threads.submit(work)

    def begin_large(self) -> None:
        """Count a query with a large answer. Raises BusyError if there are too many."""
        with self._lock:
            if self.large_queries >= MAX_LARGE:
                raise BusyError(f"{MAX_LARGE} large answers are being sent; ask again, or for less")
            self.large_queries += 1

    def end(self, pieces: Generator[bytes, None, None], is_large: bool) -> None:
        """Free what a query holds, in a thread."""

        def close() -> bytes:
            pieces.close()
            with self._lock:
                self.open_queries -= 1
                self.large_queries -= is_large
            return b""

        with suppress(RuntimeError):  # the interpreter ends
            self._ending.submit(close)


class Query:
    """The answer to one query, as a BodyStream. All public methods run in the event loop.

    `fill` comes first: it makes the beginning, and raises what the query raises. `is_packed`: it is in gzip.
    `is_closed`: nobody waits for it.
    """

    def __init__(self, pool: QueryPool, make: Callable[[], Iterator[bytes]]) -> None:
        self.is_packed = self.is_closed = False
        self._pool = pool
        self._asked_s = pool.clock_s()
        self._pieces = _deferred(make)
        self._is_large = False
        self._made = b""
        self._position = 0
        self._is_finished = False
        self._running: Future[bytes] | None = None

    async def fill(self, may_pack: bool) -> bytes | None:
        """Make the beginning of the answer; return it if it is the whole, None if `read` has to go on."""
        await self._run(lambda: self._begin(may_pack))
        return self._made if self._is_finished else None

    async def read(self) -> bytes:
        """Return the next piece, nothing at the end. Raises StreamError."""
        if self._position >= len(self._made):
            if self._is_finished:
                return b""
            try:
                await self._run(self._make)
            except QueryLimitError as error:
                raise StreamError(str(error)) from error
            except Exception as error:
                _log.exception("a query failed")
                raise StreamError("the query failed") from error
        piece = self._made[self._position : self._position + PIECE_BYTES]
        self._position += len(piece)
        return piece

    def close(self) -> None:
        """End the query: its answer is sent, or nobody waits for it. May be called repeatedly."""
        if self.is_closed:
            return
        self.is_closed = True
        if self._running is None:
            self._pool.end(self._pieces, self._is_large)
        else:
            self._running.add_done_callback(lambda _: self._pool.end(self._pieces, self._is_large))

    async def _run(self, work: Callable[[], bytes]) -> None:
        self._running = self._pool.submit(work)
        self._made, self._position = await asyncio.wrap_future(self._running), 0

    # In a thread of the pool.

    def _begin(self, may_pack: bool) -> bytes:
        if self._pool.clock_s() > self._asked_s + MAX_WAIT_S:
            raise BusyError(f"The query waited {MAX_WAIT_S:g} s for others; ask again")
        beginning = self._gather()
        if not self._is_finished:
            self._pool.begin_large()
            self._is_large = True
        if not may_pack or (self._is_finished and len(beginning) < _MIN_GZIP_BYTES):
            return beginning
        self.is_packed = True
        self._packer = zlib.compressobj(_LEVEL, wbits=_GZIP)
        return self._pack(beginning)

    def _make(self) -> bytes:
        while not self.is_closed:
            made = self._gather()
            if not self.is_packed:
                return made
            if packed := self._pack(made):
                return packed
        return b""

    def _gather(self) -> bytes:
        gathered: list[bytes] = []
        size = 0
        _current.query = self
        try:
            for piece in self._pieces:
                gathered.append(piece)
                size += len(piece)
                if size >= FILL_BYTES or self.is_closed:
                    return b"".join(gathered)
        finally:
            _current.query = None
        self._is_finished = True
        return b"".join(gathered)

    def _pack(self, made: bytes) -> bytes:
        packed = self._packer.compress(made)
        return packed + self._packer.flush() if self._is_finished else packed


def _deferred(make: Callable[[], Iterator[bytes]]) -> Generator[bytes, None, None]:
    """Call `make` when the first piece is taken: the query begins in a thread."""
    yield from make()
