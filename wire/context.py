"""The trace context that travels in a record's headers, whatever format wrote it.

Identifiers are lower-case hexadecimal text everywhere in kaspan: both the headers and the Zipkin span
carry text, and an integer would only be made to be unmade.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Headers = Sequence[tuple[str, bytes | None]]
"""Record headers as kafka-python has them."""


class Extracted(NamedTuple):
    """What a record's headers said of its trace.

    trace_id (16 or 32 hex) and span_id (16 hex) are None when only a decision came; sampled is None when
    the sender deferred the decision; debug means sampled whatever the rate.
    """

    trace_id: str | None
    span_id: str | None
    sampled: bool | None
    debug: bool


def last_value(headers: Headers, name: str) -> str | None:
    """The text of the last header of that name; None if there is none or it is null or not UTF-8."""
    for key, value in reversed(headers):
        if key == name:
            try:
                return None if value is None else value.decode()
            except UnicodeDecodeError:
                return None
    return None
