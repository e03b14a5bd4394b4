"""The reporter of this process: made for its first span, made anew in a forked child, closed at its end."""

from __future__ import annotations

import os
import platform
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from kaspan.config.schema import Interceptor
from kaspan.interceptor import at_exit, fork
from kaspan.interceptor.failures import is_from_outside, pass_on, record_failure, tell_suppressed
from kaspan.interceptor.reporters.build import Reporters
from kaspan.interceptor.reporters.polled_records import PolledRecords
from kaspan.wire import VERSION

if TYPE_CHECKING:
    from kaspan.interceptor.reporters.http import HttpReporter
    from kaspan.interceptor.reporters.ring import SpanRing

RETRY_S = 60.0
"""How long spans are dropped after a ring could not be made, before the next try."""

_MAX_EARLY_SPANS = 1000


class ProcessReporter:
    """Reports the spans of `service` under `settings`. Thread-safe; a forked child starts anew.

    `report(span_json)` reports one span, Zipkin v2 JSON. It never blocks, except that the first span makes
    the ring. The reporter counts what it drops.
    """

    def __init__(self, service: str, settings: Interceptor) -> None:
        self._service = service
        self._reporters = Reporters(settings)
        self._ring: SpanRing | HttpReporter | None = None
        self._start()
        fork.after_in_child(fork.REPORTER, self._start_in_child)
        at_exit.add(at_exit.REPORTER, self._close)
        at_exit.register()

    def _start(self) -> None:
        self.process_start_ns = time.perf_counter_ns()
        """A span that started earlier, before a fork, is the parent's to report."""
        self.report: Callable[[bytes], None] = self._report_first
        self.polled = PolledRecords()
        """Of this process, shown in its ring."""
        self._early: deque[bytes] = deque()
        self._opening = threading.Lock()
        self._retry_at_s = 0.0

    def _start_in_child(self) -> None:
        ring, self._ring = self._ring, None
        tell_suppressed(None)
        self._start()
        if ring is not None:
            try:
                ring.abandon()
            except (OSError, BufferError) as error:
                record_failure("letting go of the parent's ring", error)

    def _report_first(self, payload: bytes) -> None:
        """Make the ring. A span that a thread or a finalizer reports meanwhile waits in `_early`."""
        if len(self._early) < _MAX_EARLY_SPANS:
            self._early.append(payload)
        try:
            self._put_early()
        except BaseException as error:  # noqa: BLE001 (if this raised, the caller would report the span again)
            if is_from_outside(error):
                self._put_early()
            pass_on("making the span ring", error)

    def _put_early(self) -> None:
        early = self._early
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

    def _make_ring(self) -> SpanRing | HttpReporter | None:
        if time.monotonic() < self._retry_at_s:
            return None
        try:
            ring = self._reporters.make(self._process())
        except (OSError, ValueError, ImportError) as error:
            record_failure("making the span ring (spans are dropped meanwhile)", error)
            self._retry_at_s = time.monotonic() + RETRY_S
            return None
        self.report = ring.put
        tell_suppressed(ring.note_suppressed)
        self.polled.tell(ring.note_polled)
        return ring

    def _close(self) -> None:
        if self._ring is not None:
            self._ring.close()

    def _process(self) -> dict[str, object]:
        return {
            "service": self._service,
            "pid": os.getpid(),
            "start_us": time.time_ns() // 1000,
            "kaspan": VERSION,
            # Imports nothing: the process may have another root or user by now, and not see its modules.
            "kafka_python": getattr(sys.modules.get("kafka"), "__version__", "unknown"),
            "python": platform.python_version(),
        }
