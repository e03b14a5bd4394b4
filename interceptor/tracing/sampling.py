"""Which new traces are recorded."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from fnmatch import fnmatchcase

from kaspan.config.schema import Operation, Sampling

_EVERYTHING = 2**64
_MAX_CACHED_TOPICS = 10_000


class Sampler:
    """Decides whether a new trace is recorded, by the topic and operation of its first record.

    A trace is recorded if the low 64 bits of its id are below a bound, as in OpenTelemetry's
    TraceIdRatioBased, so services with the same rate decide the same. `clock_s` is a monotonic clock.
    """

    def __init__(self, settings: Sampling, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.bound = _bound(settings.rate)
        """The low 64 bits of a recorded trace's id are below this. If `is_simple`, nothing else counts."""
        self._rules = [(rule.topic, rule.operation, _bound(rule.rate)) for rule in settings.rules]
        self._bounds: dict[tuple[Operation, str], int] = {}
        limit = settings.max_traces_per_s
        self._limit = None if limit is None else _Limit(limit, clock_s)
        self.is_simple = not self._rules and limit is None
        self.samples_all = self.bound == _EVERYTHING and self.is_simple
        """Whether every trace is recorded."""

    def is_sampled(self, trace_id: bytes, operation: Operation | None = None, topic: str = "") -> bool:
        """Whether a new trace with this id (hex digits) is recorded.

        `operation` and `topic` are those of the record that it starts with, for the rules; None if it starts
        with something else.
        """
        bound = self._bound_of(operation, topic) if self._rules and operation else self.bound
        if bound != _EVERYTHING and int(trace_id[-16:], 16) >= bound:
            return False
        return self._limit is None or self._limit.allows()

    def _bound_of(self, operation: Operation, topic: str) -> int:
        found = self._bounds.get((operation, topic))
        if found is not None:
            return found
        matching = (
            bound
            for glob, only, bound in self._rules
            if only in (None, operation) and fnmatchcase(topic, glob)
        )
        bound = next(matching, self.bound)
        if len(self._bounds) >= _MAX_CACHED_TOPICS:
            self._bounds.clear()
        self._bounds[operation, topic] = bound
        return bound


def _bound(rate: float) -> int:
    return round(rate * _EVERYTHING)


class _Limit:
    """Allows a number of traces in each window: a second, or longer if that allows less than one trace."""

    def __init__(self, traces_per_s: float, clock_s: Callable[[], float]) -> None:
        self._window_s = max(1.0, 1 / traces_per_s)
        self._most = round(traces_per_s * self._window_s)
        self._clock_s = clock_s
        self._window = -1
        self._allowed = itertools.count()

    def allows(self) -> bool:
        # No lock: a finalizer that starts a trace would wait for ever if its own thread held it.
        window = int(self._clock_s() / self._window_s)
        if window != self._window:
            self._window, self._allowed = window, itertools.count()
        return next(self._allowed) < self._most
