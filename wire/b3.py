"""B3: the trace context of one span as `b3`, or as several headers `X-B3-...`.

    b3 = {trace id: 16 or 32}-{span id: 16}[-{0, 1 or d}][-{parent id: 16}]   or only   0, 1 or d

Source: openzipkin/b3-propagation's README; where it says nothing, the behaviour of Brave's B3SingleFormat.
"""

from __future__ import annotations

import re

from kaspan.wire.context import Headers, TraceContext, last_value

HEADER = "b3"
TRACE_ID = "X-B3-TraceId"
SPAN_ID = "X-B3-SpanId"
PARENT_ID = "X-B3-ParentSpanId"
SAMPLED = "X-B3-Sampled"
FLAGS = "X-B3-Flags"
MULTI_HEADERS = (TRACE_ID, SPAN_ID, PARENT_ID, SAMPLED, FLAGS)

SAMPLED_TEMPLATE = b"%b-%b-1"
"""The value of `b3` for a sampled trace, from trace id and span id: what nearly every record carries."""

_SINGLE = re.compile(rb"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d]))?(?:-[0-9a-f]{16})?").fullmatch
_TRACE_ID = re.compile(rb"[0-9a-f]{16}|[0-9a-f]{32}").fullmatch
_SPAN_ID = re.compile(rb"[0-9a-f]{16}").fullmatch
_ALPHABET = b"0123456789abcdef-"
_ONE = ord("1")
_ZERO_TRACE = b"0" * 32
_ZERO_SPAN = b"0" * 16

_DECISIONS: dict[bytes, TraceContext] = {
    b"0": (None, None, False, False),
    b"1": (None, None, True, False),
    b"d": (None, None, True, True),
}
_MULTI_SAMPLED = {b"0": False, b"1": True, b"false": False, b"true": True}


def parse(value: bytes) -> TraceContext | None:
    """Read the value of a `b3` header; None if it is malformed."""
    if len(value) == 51 and value[50] == _ONE and not value.translate(None, _ALPHABET):
        # The usual value, a sampled trace with a 128-bit id, at a third of the cost of the pattern.
        fields = value.split(b"-")
        if len(fields) == 3 and len(fields[0]) == 32 and len(fields[1]) == 16:
            trace_id, span_id, _ = fields
            if span_id == _ZERO_SPAN or trace_id == _ZERO_TRACE:
                return None
            return trace_id, span_id, True, False
    match = _SINGLE(value)
    if match is None:
        return _DECISIONS.get(value)
    trace_id, span_id, state = match.groups()
    if span_id == _ZERO_SPAN or _ZERO_TRACE.startswith(trace_id):
        return None
    return trace_id, span_id, None if state is None else state != b"0", state == b"d"


def format_single(trace_id: bytes, span_id: bytes, sampled: bool, debug: bool) -> bytes:
    """Make the value of a `b3` header, without the parent id, which messaging does not need."""
    return b"%b-%b-%b" % (trace_id, span_id, b"d" if debug else b"1" if sampled else b"0")


def extract_multi(headers: Headers) -> TraceContext | None:
    """Read the `X-B3-...` headers; None if there are none or one of them is malformed."""
    decision = last_value(headers, SAMPLED)
    sampled = None if decision is None else _MULTI_SAMPLED.get(decision.lower())
    if sampled is None and decision is not None:
        return None
    debug = last_value(headers, FLAGS) == b"1"
    if debug:
        sampled = True
    trace_id = last_value(headers, TRACE_ID)
    if trace_id is None:
        return None if sampled is None else (None, None, sampled, debug)
    span_id, parent_id = last_value(headers, SPAN_ID), last_value(headers, PARENT_ID)
    if span_id is None or not (_TRACE_ID(trace_id) and _SPAN_ID(span_id)):
        return None
    if parent_id is not None and not _SPAN_ID(parent_id):
        return None
    if span_id == _ZERO_SPAN or _ZERO_TRACE.startswith(trace_id):
        return None
    return trace_id, span_id, sampled, debug


def inject_multi(trace_id: bytes, span_id: bytes, sampled: bool, debug: bool) -> list[tuple[str, bytes]]:
    """Make the `X-B3-...` headers of one span."""
    decision = (FLAGS, b"1") if debug else (SAMPLED, b"1" if sampled else b"0")
    return [(TRACE_ID, trace_id), (SPAN_ID, span_id), decision]
