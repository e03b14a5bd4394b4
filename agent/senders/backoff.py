"""The retry delay of a sender."""

from __future__ import annotations

import random

FIRST_S = 0.1
LONGEST_S = 30.0
LONGEST_ASKED_S = 300.0
"""The longest delay that a target can ask for."""


class Backoff:
    """Exponential delays with full jitter: agents that lost one Zipkin together do not return together.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 (spreads load, keeps no secret)
        self._ceiling_s = FIRST_S

    def next_s(self, asked_s: float = 0.0) -> float:
        """Return the next delay in seconds, at least as long as the target asked for."""
        delay_s = self._rng.uniform(0, self._ceiling_s)
        self._ceiling_s = min(self._ceiling_s * 2, LONGEST_S)
        return max(delay_s, min(asked_s, LONGEST_ASKED_S))

    def reset(self) -> None:
        """Start again with the shortest delay, after a success."""
        self._ceiling_s = FIRST_S
