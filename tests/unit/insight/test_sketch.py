"""Sketches: quantiles within 1 %, and sums of sketches."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.insight.sketch import MAX_BINS, RELATIVE_ACCURACY, Sketch, SketchRow

VALUES = st.lists(st.integers(0, 700_000_000), min_size=1, max_size=300)
PARTS = st.floats(0, 1)


def sketch_of(values: list[int]) -> Sketch:
    sketch = Sketch()
    for value in values:
        sketch.add(value)
    return sketch


def same(one: Sketch, other: Sketch) -> bool:
    return one.to_row() == other.to_row()


@given(values=VALUES, part=PARTS)
def test_quantile_is_within_the_accuracy_of_the_value_of_that_rank(values: list[int], part: float) -> None:
    """A quantile differs from the true value of its rank by at most 1 % of it."""
    true = sorted(values)[math.floor(part * (len(values) - 1))]

    assert sketch_of(values).quantile(part) == pytest.approx(true, rel=RELATIVE_ACCURACY * 1.000001)


@given(values=VALUES, others=VALUES)
def test_merged_sketch_is_the_sketch_of_all_values(values: list[int], others: list[int]) -> None:
    """Two sketches add up to what one sketch of all values says."""
    merged = sketch_of(values)
    merged.merge(sketch_of(others))

    assert same(merged, sketch_of(values + others))


@given(values=st.lists(st.integers(0, 10**9), max_size=100))
def test_row_says_all_of_a_sketch(values: list[int]) -> None:
    """A sketch that was written and read, as MessagePack and as JSON, is the same."""
    sketch = sketch_of(values)
    packed = msgspec.msgpack.encode(sketch.to_row())
    text = msgspec.json.encode(sketch.to_row())

    assert same(Sketch.from_row(msgspec.msgpack.decode(packed, type=SketchRow)), sketch)
    assert same(Sketch.from_row(msgspec.json.decode(text, type=SketchRow)), sketch)


def test_bins_are_bounded_at_the_cost_of_the_smallest_values() -> None:
    """However far values are apart there are at most MAX_BINS bins, and high quantiles stay exact to 1 %."""
    values = [int(1.02**power) for power in range(2000)]
    sketch = sketch_of(values)

    assert len(sketch.bins) == MAX_BINS
    assert sketch.quantile(0.9) == pytest.approx(values[1799], rel=RELATIVE_ACCURACY)
    assert sketch.count == len(values)


def test_sketch_of_nothing_has_no_quantiles() -> None:
    """Without values a quantile is NaN."""
    assert math.isnan(Sketch().quantile(0.5))


@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_value_that_cannot_be_counted_is_refused(value: float) -> None:
    """A value below 0, infinity and NaN raise ValueError, and count for nothing."""
    sketch = Sketch()
    with pytest.raises(ValueError, match="0 or more"):
        sketch.add(value)

    assert sketch.count == 0
