"""kaspan.agent.terminal.times: durations, moments and the axis."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.terminal.times import TICK, axis, duration, duration_range, moment


@pytest.mark.parametrize(
    ("duration_us", "text"),
    [
        (None, "-"),
        (0, "0 µs"),
        (999, "999 µs"),
        (1_000, "1.0 ms"),
        (999_949, "999.9 ms"),
        (999_950, "1.00 s"),
        (59_994_999, "59.99 s"),
        (59_995_000, "1.0 min"),
        (3_600_000_000, "1.0 h"),
        (172_800_000_000, "2.0 d"),
    ],
)
def test_duration_has_the_unit_that_keeps_it_short(duration_us: int | None, text: str) -> None:
    """Rounding never gives 1000.0 ms or 60.00 s."""
    assert duration(duration_us) == text


@pytest.mark.parametrize(
    ("durations_us", "text"),
    [
        ([5_000], "5.0 ms"),
        ([5_000, 5_010], "5.0 ms"),
        ([1_200, 20_300], "1.2-20.3 ms"),
        ([80, 20_300], "80 µs-20.3 ms"),
    ],
)
def test_range_names_its_unit_once(durations_us: list[int], text: str) -> None:
    """A range is short, and one value where both ends look the same."""
    assert duration_range(durations_us) == text


def test_moment_is_utc() -> None:
    """Machines in different places say the same; a time that no calendar has raises nothing."""
    assert moment(1_732_459_200_123_456) == "2024-11-24 14:40:00"
    assert moment(1_732_459_200_123_456, milliseconds=True) == "2024-11-24 14:40:00.123"
    assert moment(2**63) == "-"


@pytest.mark.parametrize(
    ("total_us", "cells", "line"),
    [
        (54_300, 40, "╷0     ╷10 ms  ╷20 ms ╷30 ms ╷40 ms"),
        (1_180_000, 16, "╷0         1 s╷"),
        (0, 16, "╷0"),
        (7_200_000_000, 30, "╷0      ╷0.5 h ╷1 h   ╷1.5 h"),
        (5, 0, ""),
    ],
)
def test_axis_has_marks_at_round_times(total_us: int, cells: int, line: str) -> None:
    """A mark stands at its time's cell; its label is beside it where there is room."""
    assert axis(total_us, cells) == line


@given(st.integers(0, 2**64), st.integers(0, 300))
def test_axis_fits_and_begins_at_zero(total_us: int, cells: int) -> None:
    """Whatever the length of a trace."""
    line = axis(total_us, cells)

    assert len(line) <= cells
    assert line == "" or line.startswith(f"{TICK}0")


@given(st.integers(0, 27 * 365 * 86_400 * 10**6))
def test_duration_fits_its_column(duration_us: int) -> None:
    """Columns of durations stay narrow."""
    assert len(duration(duration_us)) <= 8
