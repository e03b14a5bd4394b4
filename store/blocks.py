"""The body of a block: the JSON of its spans, joined by commas, in zstd frames."""

from __future__ import annotations

from collections.abc import Iterable

import zstandard

MAX_BYTES = 256 * 1024 * 1024
"""No body has more JSON than this: a damaged one must not take all memory."""
_LEVEL = 2  # a quarter cheaper than level 1 and 3, for our spans, and within 3 % of the smallest

_compress = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress


class DamagedBlockError(Exception):
    """The body of a block cannot be read."""


def compress_spans(spans: Iterable[bytes]) -> bytes:
    """Return the body of a block with these JSON spans."""
    return _compress(b",".join(spans))


def decompress_spans(body: bytes) -> bytes:
    """Return the JSON spans of a body, joined by commas. Any thread may call it. Raises DamagedBlockError."""
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= MAX_BYTES:
            raise DamagedBlockError(f"a block claims {size} bytes")
        # One for each call: a decompressor must not be shared by threads.
        return zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as error:
        raise DamagedBlockError(f"a block cannot be decompressed: {error}") from error
