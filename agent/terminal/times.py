"""Durations and moments as short text, and the axis of a time scale."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from kaspan.agent.terminal.line import cells_of

_DAY_US = 86_400_000_000
_UNITS = ((_DAY_US, "d"), (3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms"))
_SCALES = (
    # Up to which duration a unit is used, so that rounding gives no 1000.0 ms; its size, name and decimals.
    (999_950, 1_000, "ms", 1),
    (59_995_000, 1_000_000, "s", 2),
    (3_597_000_000, 60_000_000, "min", 1),
    (2 * _DAY_US, 3_600_000_000, "h", 1),
)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
TICK = "╷"


def duration(duration_us: int | None) -> str:
    """Write a duration in microseconds in at most 8 characters up to 27 years; a dash for None."""
    if duration_us is None:
        return "-"
    if duration_us < 1_000:
        return f"{duration_us} µs"
    for below_us, unit_us, name, decimals in _SCALES:
        if duration_us < below_us:
            return f"{duration_us / unit_us:.{decimals}f} {name}"
    return f"{duration_us / _DAY_US:.1f} d"


def duration_range(durations_us: list[int]) -> str:
    """Write the shortest and the longest of some durations, as `1.2-20.3 ms`."""
    shortest, longest = duration(min(durations_us)), duration(max(durations_us))
    if shortest == longest:
        return longest
    number, _, unit = shortest.partition(" ")
    return f"{number}-{longest}" if longest.endswith(f" {unit}") else f"{shortest}-{longest}"


def moment(timestamp_us: int, *, milliseconds: bool = False) -> str:
    """Write a Unix time as date and time of day in UTC; a dash for one that no calendar has."""
    try:
        when = _EPOCH + timedelta(microseconds=timestamp_us)
    except OverflowError:
        return "-"
    text = f"{when:%Y-%m-%d %H:%M:%S}"
    return f"{text}.{when.microsecond // 1000:03}" if milliseconds else text


def axis(total_us: int, cells: int) -> str:
    """Return a line of at most `cells` with a mark and a label at round times from 0 to `total_us`."""
    divisor, unit = next(((size, name) for size, name in _UNITS if total_us >= size), (1, "µs"))
    total = max(1, total_us) / divisor
    line = f"{TICK}0"
    for step in _round_steps(total) if total_us > 0 else ():
        labels = [f"{step * index:.6g} {unit}" for index in range(1, int(total / step) + 1)]
        if not labels:
            break
        room = step / total * cells
        if all(max(cells_of(label) + 2, cells / 8) <= room for label in labels):
            for index, label in enumerate(labels, 1):
                column = round(index * room)
                if column + 1 + cells_of(label) <= cells:
                    line = line.ljust(column) + TICK + label
                elif column < cells and len(line) + 1 + cells_of(label) <= column:
                    line = f"{line.ljust(column - cells_of(label))}{label}{TICK}"
            break
    return line if len(line) <= cells else ""


def _round_steps(total: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten around a twentieth to the whole of `total`, ascending."""
    return [
        factor * 10.0**power
        for power in range(-3, 9)
        for factor in (1, 2, 5)
        if total / 20 <= factor * 10.0**power <= total
    ]
