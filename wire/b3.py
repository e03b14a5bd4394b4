"""B3 single header: read and write the trace context of one span as `b3`.

    {trace id: 16 or 32}-{span id: 16}[-{0, 1 or d}[-{parent id: 16}]]   or only   0, 1 or d

Identifiers are lower-case hexadecimal text everywhere in kaspan: both the header and the Zipkin span
carry text, and an integer would only be made to be unmade.

Source: openzipkin/b3-propagation, README, "Single Header", and the behaviour of Brave's B3SingleFormat.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = "b3"

_CONTEXT = re.compile(
    r"(?P<trace>[0-9a-f]{16}|[0-9a-f]{32})-(?P<span>[0-9a-f]{16})"
    r"(?:-(?P<state>[01d])(?:-(?P<parent>[0-9a-f]{16}))?)?"
).fullmatch
_ZERO_TRACES = ("0" * 16, "0" * 32)
_ZERO_SPAN = "0" * 16


class Extracted(NamedTuple):
    """What a record's headers said of its trace.

    trace_id (16 or 32 hex) and span_id (16 hex) are None when only a decision came; sampled is None when
    the sender deferred the decision; debug means sampled whatever the rate.
    """

    trace_id: str | None
    span_id: str | None
    sampled: bool | None
    debug: bool


_DECISIONS = {
    "0": Extracted(None, None, False, False),
    "1": Extracted(None, None, True, False),
    "d": Extracted(None, None, True, True),
}


def parse(value: str) -> Extracted | None:
    """Read the value of a `b3` header; None if it is malformed."""
    match = _CONTEXT(value)
    if match is None:
        return _DECISIONS.get(value)
    trace_id, span_id, state, _parent = match.groups()
    if trace_id in _ZERO_TRACES or span_id == _ZERO_SPAN:
        return None
    return Extracted(trace_id, span_id, None if state is None else state != "0", state == "d")
