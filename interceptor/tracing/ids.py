"""Trace and span ids. From the system, not from `random`: an application that seeds that repeats no id."""

from __future__ import annotations

import os

from kaspan.interceptor import fork

_IDS_AT_ONCE = 512

spare_ids: list[bytes] = []
"""Span ids for later, 16 hex digits each: one call of the system gives many."""
fork.after_in_child(fork.IDS, spare_ids.clear)


def new_span_id() -> bytes:
    """Make a span id: 16 hex digits."""
    try:
        return spare_ids.pop()
    except IndexError:
        digits = os.urandom(8 * _IDS_AT_ONCE).hex().encode()
        spare_ids.extend([digits[at : at + 16] for at in range(0, len(digits), 16)])
        return new_span_id()


def new_trace_id() -> bytes:
    """Make a trace id of 128 bits: 32 hex digits."""
    return new_span_id() + new_span_id()
