"""POST /api/v2/spans as Zipkin's HTTP collector answers it; 202 means that the spans are safe on disk.

Source: zipkin2-api.yaml, and ZipkinHttpCollector of Zipkin 3.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Iterator

from kaspan.agent.database import SpoolFull
from kaspan.agent.processors.chain import Chain, Tally
from kaspan.agent.receivers.commit import GroupCommit
from kaspan.agent.receivers.exchange import Answer, Request, no
from kaspan.agent.receivers.http import HELD_BODIES, FatalError, HttpServer
from kaspan.agent.receivers.listener import open_listeners
from kaspan.agent.receivers.proto3 import proto3_batches
from kaspan.agent.receivers.reader import InvalidSpansError
from kaspan.agent.receivers.validation import json_batches
from kaspan.agent.spool import Batch, Spool
from kaspan.config import schema

PATH = "/api/v2/spans"
V1_PATH = "/api/v1/spans"
RETRY_S = 5
"""How long a client is asked to wait when the spool is full."""

_ACCEPTED = Answer(202)
_MAX_GZIP_MEMBERS = 16  # one would do for all clients known; each more costs a copy of what is behind it
_GZIP_WINDOW_BITS = 31  # 15, the largest there is, and 16 for gzip's own head and tail
_ONLY_V2 = "kaspan takes Zipkin's JSON v2 and proto3 at /api/v2/spans"

_log = logging.getLogger("kaspan.agent")


class Collector:
    """Takes spans by HTTP into a spool. `taken` counts those that are safe there, or dropped by a processor,
    by the way they came: http or unix.

    `server` listens where the settings say; others may add routes to it. Without a `chain` spans are taken
    as they come. Raises ListenError.
    """

    def __init__(self, settings: schema.Agent, spool: Spool, chain: Chain | None = None) -> None:
        self.taken = {"http": 0, "unix": 0}
        self._chain = chain
        self._row_bytes = settings.batch.max_bytes
        self._max_body_bytes = settings.max_body_bytes
        self.server = HttpServer(
            open_listeners(settings), settings.max_body_bytes, settings.max_connections, settings.token
        )
        self._commits = GroupCommit(spool, self._row_bytes, self.server.count_connections)
        self._is_full = False
        self.server.add("POST", PATH, self.take)
        self.server.add("POST", V1_PATH, self.refuse_v1)

    @property
    def taken_spans(self) -> int:
        """How many spans came by any way."""
        return sum(self.taken.values())

    def adjust(self, settings: schema.Agent, chain: Chain | None) -> None:
        """Work with other settings from the next request on. Any thread may call it."""
        self._chain = chain
        self._row_bytes = self._commits.row_bytes = settings.batch.max_bytes
        self._max_body_bytes = settings.max_body_bytes
        self.server.adjust(settings.max_body_bytes, settings.max_connections, settings.token)

    async def refuse_v1(self, request: Request) -> Answer:
        """Name what is missing: Zipkin still takes its first format."""
        format_ = "Thrift" if _content_type(request) == "application/x-thrift" else "JSON v1"
        return no(415, "format", f"{format_} is not supported: {_ONLY_V2}")

    async def take(self, request: Request) -> Answer:
        """Store the spans of a body, and then say so."""
        content_type = _content_type(request)
        if content_type == "application/x-thrift":
            return no(415, "format", f"Thrift is not supported: {_ONLY_V2}")
        if self._commits.waiting_bytes > self._max_body_bytes * HELD_BODIES:
            return no(429, "busy", "The disk is too slow for what comes", ("Retry-After", "1"))
        try:
            body = self._content(request)
            read = proto3_batches if content_type == "application/x-protobuf" else json_batches
            tally, chain = Tally(), self._chain
            batches = await _all(_processed(read(body, self._row_bytes), chain, tally))
        except InvalidSpansError as invalid:
            refusal = {400: "invalid", 413: "too large", 415: "format"}[invalid.status]
            return no(invalid.status, refusal, str(invalid))
        answer = await self._store(batches)
        if answer is _ACCEPTED:
            way = "unix" if request.is_trusted else "http"
            self.taken[way] += sum(batch.spans for batch in batches) + tally.removed_spans
            if chain is not None:
                chain.count(tally)
        return answer

    def _content(self, request: Request) -> bytes:
        if not request.body or "gzip" not in request.headers.get("content-encoding", ""):
            return request.body
        packed, room, pieces = request.body, self._max_body_bytes + 1, []
        for _ in range(_MAX_GZIP_MEMBERS):
            unzipping = zlib.decompressobj(_GZIP_WINDOW_BITS)
            try:
                pieces.append(unzipping.decompress(packed, room))
            except zlib.error as error:
                raise InvalidSpansError(f"Cannot gunzip spans: {error}") from error
            room -= len(pieces[-1])
            if room <= 0:
                limit = f"{self._max_body_bytes} bytes (agent.max_body_bytes)"
                raise InvalidSpansError(f"A body may have {limit} when it is unpacked", 413)
            if not unzipping.eof:
                raise InvalidSpansError("Cannot gunzip spans: the body ends too soon")
            packed = unzipping.unused_data
            if not packed:
                return b"".join(pieces)
        raise InvalidSpansError(f"Cannot gunzip spans: more than {_MAX_GZIP_MEMBERS} gzip files in a row")

    async def _store(self, batches: list[Batch]) -> Answer:
        try:
            if batches:
                await self._commits.put(batches)
        except SpoolFull as full:
            if not self._is_full:
                _log.warning("spans by HTTP are answered 429: %s", full)
            self._is_full = True
            return no(429, "spool full", str(full), ("Retry-After", str(RETRY_S)))
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


async def _all(batches: Iterator[Batch]) -> list[Batch]:
    """Read a large body piece by piece, so that others have their turn."""
    read: list[Batch] = []
    for batch in batches:
        if read:
            await asyncio.sleep(0)
        read.append(batch)
    return read


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()
