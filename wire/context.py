"""The trace context in a record's headers, the same for every header format.

Everywhere in kaspan ids are lower-case hexadecimal digits, as ASCII bytes: headers and Zipkin's JSON are
bytes too, so nothing is converted.
"""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[str, bytes | None]]
"""Record headers in the form of kafka-python."""

TraceContext = tuple[bytes | None, bytes | None, bool | None, bool]
"""The trace context from a record's headers: (trace id, span id, sampled, debug).

The trace id (16 or 32 hex digits) and the span id (16) are None if the headers hold only a sampling decision;
`sampled` is None if the sender left the decision open; `debug` means sampled at any rate. A plain tuple,
because one is made for every record.
"""


def last_value(headers: Headers, name: str) -> bytes | None:
    """The value of the last header with this name; None if it is missing or null."""
    for key, value in reversed(headers):
        if key == name:
            return value
    return None
