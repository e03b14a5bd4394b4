"""A sketch of many values: quantiles within 1 %, whatever their distribution, and two sketches add up.

Source: Masson, Rim, Lee: DDSketch, a fast and fully-mergeable quantile sketch with relative-error guarantees
(VLDB 2019). The bound on bins is the paper's "collapsing lowest".
"""

from __future__ import annotations

import math
from itertools import accumulate, pairwise

import msgspec

RELATIVE_ACCURACY = 0.01
"""How far a quantile may be from a true value of that rank, as a part of that value."""
MAX_BINS = 1024
"""How many bins a sketch has at most. They span a factor of 780,000,000, such as 1 us to 13 minutes; of
values further apart, the smallest ones lose their accuracy."""

_GAMMA = (1 + RELATIVE_ACCURACY) / (1 - RELATIVE_ACCURACY)
_BINS_PER_E = 1 / math.log(_GAMMA)
_MIDDLE = 2 / (1 + _GAMMA)


class SketchRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A sketch at rest. `steps` are the differences between the numbers of its bins, `times` their counts."""

    count: int
    zeros: int
    total: float
    least: float
    most: float
    steps: list[int]
    times: list[int]


class Sketch:
    """How many values there were in each bin of a logarithmic scale, with exact count, sum, least and most.

    Values are 0 or more; those below 1 count as 0, since times are whole microseconds.
    """

    __slots__ = ("bins", "count", "least", "most", "total", "zeros")

    def __init__(self) -> None:
        self.bins: dict[int, int] = {}
        self.zeros = self.count = 0
        self.total = 0.0
        self.least, self.most = math.inf, -math.inf

    def add(self, value: float, times: int = 1) -> None:
        """Count a value `times` times. Raises ValueError for a value below 0, or that is not finite."""
        if not 0 <= value < math.inf:
            raise ValueError(f"{value} cannot be counted; the rule is a finite number, 0 or more")
        if value >= 1:
            index = math.ceil(math.log(value) * _BINS_PER_E)
            self.bins[index] = self.bins.get(index, 0) + times
            if len(self.bins) > MAX_BINS:
                self._collapse()
        else:
            self.zeros += times
        self.count += times
        self.total += value * times
        self.least = min(self.least, value)
        self.most = max(self.most, value)

    def merge(self, other: Sketch) -> None:
        """Add all values of another sketch; the result is as if all had been added to this one."""
        for index, times in other.bins.items():
            self.bins[index] = self.bins.get(index, 0) + times
        if len(self.bins) > MAX_BINS:
            self._collapse()
        self.zeros += other.zeros
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def quantile(self, part: float) -> float:
        """Return the value below which `part` (0 to 1) of all values are; NaN if there are none."""
        if not self.count:
            return math.nan
        rank = part * (self.count - 1)
        passed = self.zeros
        if passed > rank:
            return 0.0
        for index in sorted(self.bins):
            passed += self.bins[index]
            if passed > rank:
                return min(max(_GAMMA**index * _MIDDLE, self.least), self.most)
        return self.most

    def _collapse(self) -> None:
        """Put the lowest bins together until there are MAX_BINS."""
        indexes = sorted(self.bins)
        lowest = indexes[-MAX_BINS]
        for index in indexes[:-MAX_BINS]:
            self.bins[lowest] += self.bins.pop(index)

    def to_row(self) -> SketchRow:
        """Return the sketch in a form to store and send."""
        indexes = sorted(self.bins)
        return SketchRow(
            count=self.count,
            zeros=self.zeros,
            total=self.total,
            least=self.least if self.count else 0.0,
            most=self.most if self.count else 0.0,
            steps=[index - before for before, index in pairwise([0, *indexes])],
            times=[self.bins[index] for index in indexes],
        )

    @classmethod
    def from_row(cls, row: SketchRow) -> Sketch:
        """Return the sketch that `to_row` was called on."""
        sketch = cls()
        sketch.count, sketch.zeros, sketch.total = row.count, row.zeros, row.total
        sketch.bins = dict(zip(accumulate(row.steps), row.times, strict=True))
        if row.count:
            sketch.least, sketch.most = row.least, row.most
        return sketch
