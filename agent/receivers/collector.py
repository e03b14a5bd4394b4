"""POST /api/v2/spans, answered as Zipkin's HTTP collector does; 202 means that the spans are on disk.

Source: zipkin2-api.yaml, and ZipkinHttpCollector of Zipkin 3.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from kaspan.agent.batch import Batch
from kaspan.agent.codec.json_lenient import InvalidSpansError
from kaspan.agent.http.listener import open_listeners
from kaspan.agent.http.messages import ACCEPTED, Request, Response, make_refusal
from kaspan.agent.http.server import HELD_BODIES, FatalError, HttpServer
from kaspan.agent.processors.chain import Chain, Tally
from kaspan.agent.receivers.content import THRIFT, Content, content_type
from kaspan.agent.receivers.group_commit import GroupCommit
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.spool import Spool
from kaspan.config import schema
from kaspan.wire.span import SPANS_PATH

V1_PATH = "/api/v1/spans"
RETRY_S = 5
"""How long a client should wait when the spool is full."""

_ACCEPTED = Response(ACCEPTED)
_ONLY_V2 = f"kaspan accepts Zipkin's JSON v2 and proto3 at {SPANS_PATH}"

_log = logging.getLogger("kaspan.agent")


class Collector:
    """Accepts spans by HTTP and stores them in a spool.

    `accepted` counts the spans that are stored, or that a processor dropped, by the way they came: http or
    unix. `server` listens where the settings say; others may add routes to it. Without a `chain` spans are
    stored as they come. Raises ListenError.
    """

    def __init__(self, settings: schema.Agent, spool: Spool, chain: Chain | None = None) -> None:
        self.accepted = {"http": 0, "unix": 0}
        self._chain = chain
        self._row_bytes = settings.batch.max_bytes
        self._max_body_bytes = settings.max_body_bytes
        self.server = HttpServer(open_listeners(settings), settings)
        self._commits = GroupCommit(spool, self._row_bytes, self.server.count_connections)
        self._reader = ThreadPoolExecutor(1, "reader")
        self._reading = asyncio.Lock()
        self._is_full = False
        self.server.add("POST", SPANS_PATH, self.accept)
        self.server.add("POST", V1_PATH, self.refuse_v1)

    @property
    def accepted_spans(self) -> int:
        """How many spans were accepted by HTTP, over TCP and the unix socket together."""
        return sum(self.accepted.values())

    def adjust(self, settings: schema.Agent, chain: Chain | None) -> None:
        """Use other settings from the next request on. Any thread may call it."""
        self._chain = chain
        self._row_bytes = self._commits.row_bytes = settings.batch.max_bytes
        self._max_body_bytes = settings.max_body_bytes
        self.server.adjust(settings)

    async def refuse_v1(self, request: Request) -> Response:
        """Refuse Zipkin's v1 formats, which Zipkin still accepts, and name what to use."""
        format_ = "Thrift" if content_type(request) == THRIFT else "JSON v1"
        return make_refusal(415, "format", f"{format_} is not supported: {_ONLY_V2}")

    async def accept(self, request: Request) -> Response:
        """Store the spans of a body, then answer 202; otherwise refuse the whole body and say why."""
        if content_type(request) == THRIFT:
            return make_refusal(415, "format", f"Thrift is not supported: {_ONLY_V2}")
        content, tally, chain = Content.of(request), Tally(), self._chain
        try:
            batches = await self._read(content, chain, tally)
        except InvalidSpansError as invalid:
            return _refusal(content, invalid)
        if batches is None:
            return make_refusal(
                429, "busy", "The disk is too slow for the spans that arrive", ("Retry-After", "1")
            )
        answer = await self._store(batches)
        if answer is _ACCEPTED:
            way = "unix" if request.is_trusted else "http"
            self.accepted[way] += sum(batch.spans for batch in batches) + tally.removed_spans
            if chain is not None:
                chain.count(tally)
        return answer

    async def _read(self, content: Content, chain: Chain | None, tally: Tally) -> list[Batch] | None:
        """Read the spans of a body; None while too many bytes wait for the disk.

        Another thread reads a large body, so that small ones are read meanwhile. There is only one such
        thread, so that the memory for reading a large body is needed once.
        """
        if self._is_busy:
            return None
        small = content.small()
        if small is not None:
            return self._batches(small, chain, tally)
        async with self._reading:
            if self._is_busy:
                return None
            work = partial(self._read_large, content, chain, tally)
            return await self.server.loop.run_in_executor(self._reader, work)

    def _read_large(self, content: Content, chain: Chain | None, tally: Tally) -> list[Batch]:
        return self._batches(content.whole(self._max_body_bytes), chain, tally)

    def _batches(self, content: Content, chain: Chain | None, tally: Tally) -> list[Batch]:
        return list(_processed(content.batches(self._row_bytes, self._max_body_bytes), chain, tally))

    @property
    def _is_busy(self) -> bool:
        return self._commits.waiting_bytes > self._max_body_bytes * HELD_BODIES

    async def _store(self, batches: list[Batch]) -> Response:
        try:
            if batches:
                await self._commits.put(batches)
        except SpoolFull as full:
            if not self._is_full:
                _log.warning("requests with spans get the answer 429: %s", full)
            self._is_full = True
            return make_refusal(429, "spool full", str(full), ("Retry-After", str(RETRY_S)))
        except Exception as error:
            raise FatalError(f"the spool failed: {error}") from error
        self._is_full = False
        return _ACCEPTED


def _processed(batches: Iterator[Batch], chain: Chain | None, tally: Tally) -> Iterator[Batch]:
    for batch in batches:
        if chain is None:
            yield batch
        else:
            yield from chain.process_batch(batch, tally)


def _refusal(content: Content, invalid: InvalidSpansError) -> Response:
    """Make the answer to a body with invalid spans."""
    if content.unknown_encoding:
        reason = f"Content-Encoding {content.unknown_encoding} is not supported: send gzip, or none"
        return make_refusal(415, "format", reason, ("Accept-Encoding", "gzip"))
    refusal = {400: "invalid", 413: "too large", 415: "format"}[invalid.status]
    return make_refusal(invalid.status, refusal, str(invalid))
