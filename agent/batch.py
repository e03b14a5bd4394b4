"""A batch: the unit in which spans pass through the agent."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

SEPARATOR = b",\n"
"""Separates two spans of a batch. Spans from rings are one line each, so it also splits them."""

_decode_spans = msgspec.json.Decoder(list[msgspec.Raw]).decode
_NOT_JSON = (msgspec.MsgspecError, RecursionError)


class Batch(NamedTuple):
    """Spans that are stored together: how many, and their JSON joined by SEPARATOR."""

    spans: int
    body: bytes


def split(spans: bytes) -> list[bytes]:
    """Split joined spans; bytes that are not JSON are split at SEPARATOR. Never raises."""
    try:
        return _spans_of(spans)
    except _NOT_JSON:
        pieces = spans.split(SEPARATOR)
    whole: list[bytes] = []
    for piece in pieces:
        try:
            whole += _spans_of(piece)  # spans of one HTTP body are separated by commas only
        except _NOT_JSON:
            whole.append(piece)
    return whole


def _spans_of(joined: bytes) -> list[bytes]:
    return [bytes(span) for span in _decode_spans(b"[" + joined + b"]")]
