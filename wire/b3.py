"""B3: the trace context of one span as `b3`, or as several headers `X-B3-...`.

    b3 = {trace id: 16 or 32}-{span id: 16}[-{0, 1 or d}[-{parent id: 16}]]   or only   0, 1 or d

Source: openzipkin/b3-propagation's README; where it is silent, the behaviour of Brave's B3SingleFormat.
"""

from __future__ import annotations

import re

from kaspan.wire.context import Extracted, Headers, last_value

HEADER = "b3"
TRACE_ID = "X-B3-TraceId"
SPAN_ID = "X-B3-SpanId"
PARENT_ID = "X-B3-ParentSpanId"
SAMPLED = "X-B3-Sampled"
FLAGS = "X-B3-Flags"
MULTI_HEADERS = (TRACE_ID, SPAN_ID, PARENT_ID, SAMPLED, FLAGS)

_SINGLE = re.compile(r"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?").fullmatch
_TRACE_ID = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}").fullmatch
_SPAN_ID = re.compile(r"[0-9a-f]{16}").fullmatch
_ZERO_TRACES = ("0" * 16, "0" * 32)
_ZERO_SPAN = "0" * 16

_DECISIONS = {
    "0": Extracted(None, None, False, False),
    "1": Extracted(None, None, True, False),
    "d": Extracted(None, None, True, True),
}
_MULTI_SAMPLED = {"0": False, "1": True, "false": False, "true": True}


def parse(value: str) -> Extracted | None:
    """Read the value of a `b3` header; None if it is malformed."""
    match = _SINGLE(value)
    if match is None:
        return _DECISIONS.get(value)
    trace_id, span_id, state = match.groups()
    if trace_id in _ZERO_TRACES or span_id == _ZERO_SPAN:
        return None
    return Extracted(trace_id, span_id, None if state is None else state != "0", state == "d")


def format_single(trace_id: str, span_id: str, sampled: bool, debug: bool) -> bytes:
    """Make the value of a `b3` header; no parent id, which messaging never needs."""
    return f"{trace_id}-{span_id}-{'d' if debug else '1' if sampled else '0'}".encode()


def extract_multi(headers: Headers) -> Extracted | None:
    """Read the `X-B3-...` headers; None if there are none or what is there is malformed."""
    debug = last_value(headers, FLAGS) == "1"
    sampled = True if debug else _MULTI_SAMPLED.get((last_value(headers, SAMPLED) or "").lower())
    trace_id, span_id = last_value(headers, TRACE_ID), last_value(headers, SPAN_ID)
    if trace_id is None and span_id is None:
        return None if sampled is None else Extracted(None, None, sampled, debug)
    if not (trace_id and span_id and _TRACE_ID(trace_id) and _SPAN_ID(span_id)):
        return None
    if trace_id in _ZERO_TRACES or span_id == _ZERO_SPAN:
        return None
    return Extracted(trace_id, span_id, sampled, debug)


def inject_multi(trace_id: str, span_id: str, sampled: bool, debug: bool) -> list[tuple[str, bytes]]:
    """Make the `X-B3-...` headers of one span."""
    decision = (FLAGS, b"1") if debug else (SAMPLED, b"1" if sampled else b"0")
    return [(TRACE_ID, trace_id.encode()), (SPAN_ID, span_id.encode()), decision]
