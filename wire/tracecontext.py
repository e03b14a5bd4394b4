"""W3C Trace Context: the trace context of one span as `traceparent`.

Source: W3C Recommendation "Trace Context", level 1, section 3.2.
"""

from __future__ import annotations

import re

from kaspan.wire.context import Extracted

HEADER = "traceparent"
STATE_HEADER = "tracestate"

# A later version may append fields after the flags; version ff is never valid.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
).fullmatch


def parse(value: bytes) -> Extracted | None:
    """Read the value of a `traceparent` header; None if it is malformed."""
    match = _TRACEPARENT(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"00" and more is not None:
        return None
    return trace_id, span_id, bool(int(flags, 16) & 1), False


def format_traceparent(trace_id: bytes, span_id: bytes, sampled: bool) -> bytes:
    """Make the value of a `traceparent` header; a 64-bit trace id is padded with zeros on the left."""
    return b"00-%b-%b-%b" % (trace_id.rjust(32, b"0"), span_id, b"01" if sampled else b"00")
