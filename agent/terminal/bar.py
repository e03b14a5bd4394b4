"""Bars on a time scale, drawn in half cells."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from kaspan.agent.terminal.line import Piece

_NOTHING, _GAP, _WAITING, _WORKING = range(4)
_GLYPHS = {
    (_WORKING, _WORKING): "━",
    (_WORKING, _NOTHING): "╸",
    (_WORKING, _GAP): "╸",
    (_WORKING, _WAITING): "╸",
    (_NOTHING, _WORKING): "╺",
    (_GAP, _WORKING): "╺",
    (_WAITING, _WORKING): "╺",
    (_NOTHING, _NOTHING): " ",
}
_Interval = tuple[int, int]


class Scale:
    """Maps Unix times from `start_us` on, `total_us` long, to `cells`."""

    def __init__(self, start_us: int, total_us: int, cells: int) -> None:
        self._start_us = start_us
        self._total_us = max(1, total_us)
        self.cells = cells

    def bar(self, working: Iterable[_Interval], waiting: Iterable[_Interval], style: str) -> list[Piece]:
        """Draw the times at which a row works (at least half a cell each), and those at which it waits.

        Between the first and the last of them there is a thin line.
        """
        halves = bytearray(2 * self.cells)
        for first, last in (self._halves(*times) for times in waiting):
            halves[first:last] = bytes([_WAITING]) * (last - first)
        worked = [self._halves(*times) for times in working]
        for first, last in worked:
            count = max(1, last - first)
            halves[first : first + count] = bytes([_WORKING]) * count
        if len(worked) > 1:
            self._draw_gaps(halves)
        return _pieces(halves, style)

    def _halves(self, start_us: int, end_us: int) -> _Interval:
        count = 2 * self.cells
        first = min(count - 1, max(0, (start_us - self._start_us) * count // self._total_us))
        last = min(count, round((end_us - self._start_us) * count / self._total_us))
        return first, max(first, last)

    def _draw_gaps(self, halves: bytearray) -> None:
        drawn = halves.strip(bytes([_NOTHING]))
        first = halves.index(drawn)
        halves[first : first + len(drawn)] = drawn.replace(bytes([_NOTHING]), bytes([_GAP]))


def _pieces(halves: bytearray, style: str) -> list[Piece]:
    pairs = zip(halves[::2], halves[1::2], strict=True)
    return [
        Piece(_glyph(*pair) * len(list(run)), style if _WORKING in pair else "dim")
        for pair, run in groupby(pairs)
    ]


def _glyph(left: int, right: int) -> str:
    glyph = _GLYPHS.get((left, right))
    if glyph is None:
        glyph = "┄" if _WAITING in (left, right) else "─"
    return glyph
