"""One process's tracing: identifiers, sampling, the current span and the way of a span into the ring."""

from __future__ import annotations

import os
import platform
import random
import threading
import time
from collections import deque
from importlib.metadata import PackageNotFoundError, version

from opentelemetry.trace import Span

from kaspan.config.schema import Interceptor
from kaspan.interceptor.failures import suppress
from kaspan.interceptor.propagation import Propagation
from kaspan.interceptor.ring import SpanRing
from kaspan.interceptor.scope import Scope
from kaspan.interceptor.span import RecordSpan
from kaspan.wire.context import Extracted

RING_RETRY_S = 60.0
"""How long spans are dropped after a ring could not be made, before it is tried again."""

_MAX_EARLY_SPANS = 1000
_LOW_64_BITS = 16  # in hex digits


class Tracing:
    """Everything a patched method needs, for `service` under `settings`. Thread-safe; survives fork."""

    def __init__(self, service: str, settings: Interceptor) -> None:
        self.service = service
        self.remote_service = settings.remote_service
        self.propagation = Propagation(settings.propagation.inject, settings.propagation.extract)
        self.scope = Scope()
        self._settings = settings
        # A trace is sampled when the low 64 bits of its id are below this bound, as in OpenTelemetry's
        # TraceIdRatioBased: every service with the same rate decides the same.
        self._bound = round(settings.sampling.rate * 2**64)
        self._ring: SpanRing | None = None
        self._begin_life()
        os.register_at_fork(after_in_child=self._after_fork)

    def _begin_life(self) -> None:
        self.born_ns = time.perf_counter_ns()
        # Not the shared generator: an application that calls random.seed() must not repeat trace ids.
        self._bits = random.Random(os.urandom(16)).getrandbits  # noqa: S311
        self._early: deque[bytes] = deque()
        self._opening = threading.Lock()
        self._retry_at_s = 0.0

    def _after_fork(self) -> None:
        ring, self._ring = self._ring, None
        self._begin_life()
        if ring is not None:
            try:
                ring.abandon()
            except (OSError, BufferError) as error:
                suppress("letting go of the parent's ring", error)

    def is_mine(self, started_ns: int) -> bool:
        """Whether a span that started then is this process's to report, not its parent's before a fork."""
        return started_ns >= self.born_ns

    def new_id(self) -> str:
        """A new span id."""
        return f"{self._bits(64) or 1:016x}"

    def is_sampled(self, trace_id: str) -> bool:
        """The decision for a trace on which nobody has decided."""
        return int(trace_id[-_LOW_64_BITS:], 16) < self._bound

    def from_current(self, current: Span | None) -> Extracted | None:
        """The span in scope as a parent; None when there is none."""
        if current is None:
            return None
        if type(current) is RecordSpan:
            return Extracted(current.trace_id, current.span_id, current.sampled, current.debug)
        context = current.get_span_context()
        if not context.is_valid:
            return None
        return Extracted(
            f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled, False
        )

    def child_of(self, parent: Extracted | None) -> RecordSpan:
        """A new span under `parent`; a new trace where there is none, or only a decision."""
        if parent is None:
            trace_id = f"{self._bits(128) or 1:032x}"
            return RecordSpan(trace_id, self.new_id(), None, self.is_sampled(trace_id), False)
        known_id, parent_id, sampled, debug = parent
        trace_id = f"{self._bits(128) or 1:032x}" if known_id is None else known_id
        if sampled is None:
            sampled = self.is_sampled(trace_id)
        return RecordSpan(trace_id, self.new_id(), parent_id, sampled, debug)

    def report(self, span_json: str) -> None:
        """Put one span into the process's ring, which the first span makes; blocks only as long as that."""
        ring = self._ring
        if ring is not None:
            ring.put(span_json.encode())
        else:
            self._report_early(span_json.encode())

    def _report_early(self, payload: bytes) -> None:
        """Make the ring; a span that comes meanwhile, from a thread or a finalizer, waits in `_early`."""
        early = self._early
        if len(early) < _MAX_EARLY_SPANS:
            early.append(payload)
        if self._opening.acquire(False):
            try:
                if self._ring is None:
                    self._ring = self._make_ring()
            finally:
                self._opening.release()
            if self._ring is None:
                early.clear()
        ring = self._ring
        while ring is not None and early:
            try:
                ring.put(early.popleft())
            except IndexError:
                return  # another thread took it

    def _make_ring(self) -> SpanRing | None:
        if time.monotonic() < self._retry_at_s:
            return None
        try:
            return SpanRing(self._settings.ring_dir, self._settings.ring_bytes, self._process())
        except (OSError, ValueError) as error:
            self._retry_at_s = time.monotonic() + RING_RETRY_S
            suppress("making the span ring (spans are dropped meanwhile)", error)
            return None

    def _process(self) -> dict[str, object]:
        return {
            "service": self.service,
            "pid": os.getpid(),
            "start_us": time.time_ns() // 1000,
            "kaspan": _version("kaspan"),
            "kafka_python": _version("kafka-python"),
            "python": platform.python_version(),
        }


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "unknown"
