"""The trace context that travels in a record's headers, whatever format wrote it.

Identifiers are lower-case hexadecimal ASCII, as bytes, everywhere in kaspan: headers are bytes and so is
the Zipkin JSON, and an integer or a str would only be made to be unmade.
"""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[str, bytes | None]]
"""Record headers as kafka-python has them."""

TraceContext = tuple[bytes | None, bytes | None, bool | None, bool]
"""What a record's headers said of its trace: (trace id, span id, sampled, debug).

The trace id (16 or 32 hex digits) and the span id (16) are None when only a decision came; sampled is None
when the sender left the decision open; debug means sampled whatever the rate. A plain tuple: one is made
for every record.
"""


def last_value(headers: Headers, name: str) -> bytes | None:
    """The value of the last header of that name; None if there is none or it is null."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None
