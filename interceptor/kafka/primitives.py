"""In Python, what `compiled.pyx` has of its own in C: for the two-way modules when they run as they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from time import perf_counter_ns, time_ns
from typing import Any

from kaspan.interceptor.failures import pass_on
from kaspan.interceptor.tracing.collection import is_collecting
from kaspan.interceptor.tracing.ids import new_span_id, new_trace_id
from kaspan.interceptor.tracing.scope import Scope
from kaspan.interceptor.tracing.zipkin_json import key_part, parent_part
from kaspan.wire.b3 import SAMPLED_TEMPLATE

__all__ = [
    "Current",
    "b3_header",
    "call",
    "fill_process",
    "fill_send",
    "is_collecting",
    "is_ordinary_b3",
    "item",
    "list_open",
    "low_64_bits",
    "new",
    "new_id",
    "new_trace_id",
    "part",
    "pass_on_from_finalizer",
    "performance_clock_ns",
    "plain_key",
    "unlist",
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


def fill_send(
    template: bytes,
    trace_id: bytes,
    span_id: bytes,
    parent_id: bytes | None,
    timestamp_us: int,
    duration_us: int,
    enqueued_us: int,
    key: object,
    partition: int,
    offset: int,
) -> bytes:
    """Fill in the template of an ordinary send's span."""
    return template % (
        trace_id,
        span_id,
        parent_part(parent_id, False),
        timestamp_us,
        duration_us,
        enqueued_us,
        key_part(key),
        partition,
        offset,
    )


def plain_key(key: Any) -> Any:
    """Return the key. Compiled code copies what a class of the application's has added to."""
    return key


def b3_header(trace_id: bytes, span_id: bytes, sampled: bool) -> bytes:
    """Make the value of the header b3."""
    return SAMPLED_TEMPLATE % (trace_id, span_id) if sampled else b"%b-%b-0" % (trace_id, span_id)


def low_64_bits(trace_id: bytes) -> int:
    """Return the low 64 bits of a trace id of 128."""
    return int(trace_id[16:], 16)


def call(method: Any, producer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a method."""
    return method(producer, *args, **kwargs)


def list_open(send_span: object) -> None:
    """Do nothing: only compiled code lists the open sends."""


def unlist(send_span: object) -> None:
    """Do nothing, as `list_open`."""
