"""In Python, what `compiled.pyx` has of its own in C: for the two-way modules when they run as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter_ns, time_ns
from typing import Any

from kaspan.interceptor.failures import pass_on
from kaspan.interceptor.tracing.collection import is_collecting
from kaspan.interceptor.tracing.ids import new_span_id
from kaspan.interceptor.tracing.scope import Scope
from kaspan.interceptor.tracing.zipkin_json import key_part

__all__ = [
    "Current",
    "fill_process",
    "is_collecting",
    "is_ordinary_b3",
    "item",
    "new",
    "new_id",
    "part",
    "pass_on_from_finalizer",
    "performance_clock_ns",
    "wall_clock_ns",
]

wall_clock_ns, performance_clock_ns = time_ns, perf_counter_ns
pass_on_from_finalizer = pass_on
new_id = new_span_id

_ORDINARY_B3 = re.compile(rb"(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[01]")


class Current:
    """Reads and sets the current context as Scope.get and Scope.set do."""

    __slots__ = ("_variable", "enter", "get", "set")

    def __init__(self, scope: Scope) -> None:
        self._variable = scope.variable
        self.get: Callable[[], Any] = scope.get
        self.set: Callable[[Any], Any] = scope.set
        self.enter: Callable[[Any], Any] = scope.set
        """Set it, and return the token for `leave`."""

    def leave(self, context: Any, token: Any) -> bool:
        """Set what was before again; whether the caller was where the token is from."""
        if self._variable is None:
            self.set(context)
            return True
        try:
            self._variable.reset(token)
        except (ValueError, RuntimeError):
            return False
        return True


def new(span_class: Any) -> Any:
    """Make an instance without a call of its `__init__`."""
    return span_class.__new__(span_class)


def is_ordinary_b3(value: object) -> bool:
    """Whether a header's value is 32 digits, 16 digits and 0 or 1, joined by hyphens: what kaspan sends."""
    return type(value) is bytes and _ORDINARY_B3.fullmatch(value) is not None


def part(value: bytes, start: int, stop: int) -> bytes:
    """Copy a part of some bytes."""
    return value[start:stop]


def item(records: list[Any], index: int) -> Any:
    """Take a record out of a list, whatever its class makes of that; raises IndexError behind its end."""
    return list.__getitem__(records, index)


def fill_process(
    template: bytes,
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes,
    timestamp_us: int,
    duration_us: int,
    offset: int,
    key: object,
    queued_ms: int,
    lag: int,
) -> bytes:
    """Fill in the template of an ordinary record's span."""
    return template % (
        trace_id,
        span_id,
        parent_id,
        timestamp_us,
        duration_us,
        offset,
        key_part(key),
        queued_ms,
        lag,
    )
