"""What stands between an agent and its target and does to reports what networks and collectors do."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable

from support.zipkin_stub import Report, Response

HANGING_S = 20.0
"""Longer than any agent of these tests waits."""
DRIP_S = 0.1
"""From one byte of an answer to the next: no agent of these tests waits for the last one."""
LOST = Response(503, is_lost=True)

Target = Callable[[Report], Response]
Fault = Callable[["LossyProxy", Report], Response]


def _refused(status: int) -> Fault:
    def answer(proxy: LossyProxy, report: Report) -> Response:
        proxy.note_refusal(report)
        return Response(status, "no")

    return answer


def _failing(status: int) -> Fault:
    return lambda proxy, report: Response(status, "", (("Retry-After", "0"),))


FAULTS: dict[str, Fault] = {
    "400": _refused(400),
    "413": _refused(413),
    "429": _failing(429),
    "500": _failing(500),
    "503": _failing(503),
    "reset before": lambda proxy, report: LOST,
    "reset after": lambda proxy, report: proxy.target(report)._replace(is_lost=True),
    "hangs before": lambda proxy, report: Response(503, delay_s=HANGING_S),
    "hangs after": lambda proxy, report: proxy.target(report)._replace(delay_s=HANGING_S),
    "drips before": lambda proxy, report: Response(503, drip_s=DRIP_S),
    "drips after": lambda proxy, report: proxy.target(report)._replace(drip_s=DRIP_S),
    "slow": lambda proxy, report: proxy.target(report)._replace(delay_s=proxy.slow_s()),
}
"""By name. What comes "after" has been stored, and the agent does not know it."""


class LossyProxy:
    """The `answer` of a ZipkinStub in front of `target`: it harms a share `rate` of all reports.

    One with a span that `is_poison` says of is always refused. `refused` are the ids of spans that were
    refused alone, which an agent may give up for that; `faults` counts what was done. With `rate` 0 and no
    poison it is a proxy like any other.
    """

    def __init__(
        self,
        rng: random.Random,
        rate: float,
        target: Target = lambda report: Response(),
        is_poison: Callable[[str], bool] = lambda span_id: False,
    ) -> None:
        self.rate = rate
        self.target = target
        self._is_poison = is_poison
        self.refused: set[str] = set()
        self.faults: Counter[str] = Counter()
        self._rng = rng
        self._lock = threading.Lock()

    def __call__(self, report: Report) -> Response:
        with self._lock:
            name = self._rng.choice(list(FAULTS)) if self._rng.random() < self.rate else ""
            if not name and any(self._is_poison(span["id"]) for span in report.spans):
                name = "400"
            self.faults[name or "none"] += 1
        return FAULTS[name](self, report) if name else self.target(report)

    def slow_s(self) -> float:
        with self._lock:
            return self._rng.uniform(0.05, 0.4)

    def note_refusal(self, report: Report) -> None:
        """Remember the span of a report that has only this one."""
        spans = report.spans
        if len(spans) == 1:
            with self._lock:
                self.refused.add(spans[0]["id"])
