"""W3C Trace Context: the header `traceparent` with the trace context of a span, and its header `tracestate`.

Source: W3C Recommendation "Trace Context", level 1, sections 3.2 and 3.3.
"""

from __future__ import annotations

import re

from kaspan.wire.context import Headers, TraceContext, last_value

HEADER = "traceparent"
STATE_HEADER = "tracestate"

# A later version may append fields after the flags; version ff is never valid.
_TRACEPARENT = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
).fullmatch

_MAX_STATE_MEMBERS = 32
_STATE_MEMBER = (
    rb"[ \t]*(?:([a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~])?[ \t]*"
)
"""Not compiled here: that takes 0.3 ms, and few applications receive a tracestate."""


def parse(value: bytes) -> TraceContext | None:
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


def state_of(headers: Headers, trace_id: bytes) -> bytes:
    """Read the `tracestate` of a trace. It counts only together with a `traceparent` of the same trace.

    Returns the header's value; empty if it is missing, or if any part of it is malformed.
    """
    values = [value for key, value in headers if key == STATE_HEADER and value is not None]
    parent = last_value(headers, HEADER) if values else None
    found = None if parent is None else parse(parent)
    if found is None or found[0] != trace_id.rjust(32, b"0"):
        return b""
    # A list may be spread over several headers.
    state = b",".join(values)
    matches = [re.fullmatch(_STATE_MEMBER, member) for member in state.split(b",")]
    keys = [match[1] for match in matches if match is not None and match[1] is not None]
    if None in matches or len(keys) > _MAX_STATE_MEMBERS or len(set(keys)) < len(keys):
        return b""
    return state.strip() if keys else b""
