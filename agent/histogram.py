"""A histogram of plain numbers: cheap to add to, read when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec


class Histogram(msgspec.Struct):
    """How many values were at most each of `bounds`, in rising order; the last of `counts` is for the rest.

    One thread adds to it; any thread may read, and sees each value or does not.
    """

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    @classmethod
    def of(cls, bounds: Sequence[float]) -> Histogram:
        """Make an empty one."""
        return cls(tuple(bounds), [0] * (len(bounds) + 1))

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
