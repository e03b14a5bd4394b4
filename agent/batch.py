"""A batch: the unit in which spans go through the agent."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

SEPARATOR = b",\n"
"""Between two spans of a batch. Spans from rings are one line each, so that this also finds their borders."""

_decode_spans = msgspec.json.Decoder(list[msgspec.Raw]).decode
_NOT_JSON = (msgspec.MsgspecError, RecursionError)


class Batch(NamedTuple):
    """Spans that were taken together: how many, and their JSON joined by SEPARATOR."""

    spans: int
    body: bytes


def split(spans: bytes) -> list[bytes]:
    """Take joined spans apart; bytes that are not JSON come apart at SEPARATOR. Never raises."""
    try:
        return _spans_of(spans)
    except _NOT_JSON:
        pieces = spans.split(SEPARATOR)
    whole: list[bytes] = []
    for piece in pieces:
        try:
            whole += _spans_of(piece)  # what came in one HTTP body has commas only
        except _NOT_JSON:
            whole.append(piece)
    return whole


def _spans_of(joined: bytes) -> list[bytes]:
    return [bytes(span) for span in _decode_spans(b"[" + joined + b"]")]
