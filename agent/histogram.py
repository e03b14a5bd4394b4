"""A histogram that is cheap to add to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec


class Histogram(msgspec.Struct):
    """Counts values by upper bound: `bounds` rise, and the last of `counts` is for larger values.

    One thread adds values; any thread may read at the same time.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    @classmethod
    def of(cls, bounds: Sequence[float]) -> Histogram:
        """Return an empty histogram."""
        return cls(tuple(bounds), [0] * (len(bounds) + 1))

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
