"""Reads the body of a request: unpacks it, up to a limit, and reads its spans."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import NamedTuple

from kaspan.agent.batch import Batch
from kaspan.agent.codec.json_lenient import InvalidSpansError
from kaspan.agent.codec.json_strict import json_batches
from kaspan.agent.codec.proto3_decode import proto3_batches
from kaspan.agent.http.messages import Request

THRIFT, PROTO3 = "application/x-thrift", "application/x-protobuf"
_KNOWN_ENCODINGS = frozenset(("", "identity", "gzip", "x-gzip"))
_JSON_AT_ONCE_BYTES, _PROTO3_AT_ONCE_BYTES = 128 * 1024, 32 * 1024
"""Bodies up to this size are read in the event loop's thread: less than 1 ms of work, 20 ms at worst."""
_MAX_GZIP_MEMBERS = 16  # known clients send one; each further one costs a copy of what follows it
_GZIP_WINDOW_BITS = 31  # 15, the largest window, plus 16 for gzip's header and trailer


def content_type(request: Request) -> str:
    """Return the content type without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class Content(NamedTuple):
    """A body and its format. Every method that reads the body may raise InvalidSpansError."""

    body: bytes
    is_packed: bool
    is_proto3: bool
    unknown_encoding: str

    @classmethod
    def of(cls, request: Request) -> Content:
        """Read the format from the headers by Zipkin's rules, which ignore an unknown encoding."""
        encoding = request.headers.get("content-encoding", "")
        names = [name.strip() for name in encoding.lower().split(",")]
        unknown = ", ".join(name for name in names if name not in _KNOWN_ENCODINGS)
        is_packed = bool(request.body) and "gzip" in encoding
        return cls(request.body, is_packed, content_type(request) == PROTO3, unknown)

    def small(self) -> Content | None:
        """Return the content unpacked if it is small enough to be read at once, otherwise None."""
        return self._unpacked(_PROTO3_AT_ONCE_BYTES if self.is_proto3 else _JSON_AT_ONCE_BYTES)

    def whole(self, max_bytes: int) -> Content:
        """Return the content unpacked; raises InvalidSpansError if it is larger than `max_bytes`."""
        content = self._unpacked(max_bytes)
        if content is None:
            limit = f"{max_bytes} bytes (agent.max_body_bytes)"
            raise InvalidSpansError(f"A body may have at most {limit} when it is unpacked", 413)
        return content

    def batches(self, row_bytes: int, max_bytes: int) -> Iterator[Batch]:
        """Check unpacked content and yield its spans in batches of about `row_bytes`."""
        if self.is_proto3:
            return proto3_batches(self.body, row_bytes, max_bytes)
        return json_batches(self.body, row_bytes)

    def _unpacked(self, max_bytes: int) -> Content | None:
        body = _gunzip(self.body, max_bytes) if self.is_packed else self.body
        if body is None or len(body) > max_bytes:
            return None
        return self._replace(body=body, is_packed=False)


def _gunzip(packed: bytes, max_bytes: int) -> bytes | None:
    """Return the unpacked body, None if it is larger than `max_bytes`."""
    room, pieces = max_bytes + 1, []
    for _ in range(_MAX_GZIP_MEMBERS):
        unzipping = zlib.decompressobj(_GZIP_WINDOW_BITS)
        try:
            pieces.append(unzipping.decompress(packed, room))
        except zlib.error as error:
            raise InvalidSpansError(f"Cannot gunzip spans: {error}") from error
        room -= len(pieces[-1])
        if room <= 0:
            return None
        if not unzipping.eof:
            raise InvalidSpansError("Cannot gunzip spans: the body ends too soon")
        packed = unzipping.unused_data
        if not packed:
            return b"".join(pieces)
    raise InvalidSpansError(f"Cannot gunzip spans: more than {_MAX_GZIP_MEMBERS} gzip files in a row")
