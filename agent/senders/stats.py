"""The numbers of one sender: what it sent, what failed, and how long it took."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable

from kaspan.agent.histogram import Histogram

MAX_FAILURE_KINDS = 30
OTHER = "other"
"""Counts failures without a known kind, and all kinds after the first MAX_FAILURE_KINDS."""

_SPANS = (1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
_BYTES = (1_000, 10_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_kind = re.compile(r"HTTP ([0-9]{3})\b|([A-Za-z][A-Za-z0-9_]{0,60})(?=:|\Z)").match


class SenderStats:
    """The numbers of one sender since the agent started. One thread writes them; any may read.

    `failures` counts refused and failed attempts, by HTTP status or error name. `failing_since_s` is a time
    of the monotonic clock, None while the sender works.
    """

    def __init__(
        self, clock_s: Callable[[], float] = time.monotonic, wall_clock_s: Callable[[], float] = time.time
    ) -> None:
        self.sent_spans = 0
        self.dead_spans = 0
        self.dropped_spans = 0
        self.failures: Counter[str] = Counter()
        self.failing_since_s: float | None = None
        self.last_error = ""
        self.last_error_at_s = 0.0
        self.last_success_at_s = 0.0
        self.message_spans = Histogram.of(_SPANS)
        self.message_bytes = Histogram.of(_BYTES)
        self.send_s = Histogram.of(_SECONDS)
        self.clock_s = clock_s
        self._wall_clock_s = wall_clock_s

    def delivered(self, began_s: float) -> None:
        """Note that the target accepted an attempt that began at `began_s`: the sender works."""
        self.send_s.add(self.clock_s() - began_s)
        self.failing_since_s = None
        self.last_success_at_s = self._wall_clock_s()

    def refused(self, reason: str, began_s: float) -> None:
        """Count an attempt that was refused; it does not show whether the target works."""
        self.send_s.add(self.clock_s() - began_s)
        self._count(reason)

    def failed(self, reason: str, began_s: float) -> None:
        """Count an attempt that failed; if it is the first, the sender fails since `began_s`."""
        self._count(reason)
        if self.failing_since_s is None:
            self.failing_since_s = began_s

    def passed(self, sent_spans: int, spans: int, size: int) -> None:
        """Count a finished message, and how many of its spans the target accepted."""
        self.sent_spans += sent_spans
        self.message_spans.add(spans)
        self.message_bytes.add(size)

    def dead_lettered(self, kept: int, dropped: int) -> None:
        """Count spans refused even alone: kept as dead letters, or dropped because these are full."""
        self.dead_spans += kept
        self.dropped_spans += dropped

    def _count(self, reason: str) -> None:
        self.last_error, self.last_error_at_s = reason, self._wall_clock_s()
        found = _kind(reason)
        kind = (found[1] or found[2]) if found else OTHER
        if kind not in self.failures and len(self.failures) >= MAX_FAILURE_KINDS:
            kind = OTHER
        self.failures[kind] += 1
