"""How much a transaction deletes: much while the disk takes it, little on a full one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from kaspan.agent.spool.database import DiskFull, FileLostError

FEWEST_ROWS = 32
"""A journal page for each and a few beside must fit the reserve, which is all there is on a full disk."""
MOST_ROWS = 2048
"""Rows of one span each fill as many pages as the journal keeps between transactions."""
MOST_BYTES = 16 * 1024 * 1024
"""What large rows hold is read when they are deleted, and everybody else waits meanwhile."""

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


class Portions:
    """The size of the next portion. A flush of the disk costs the same for few rows and for many."""

    def __init__(self) -> None:
        self.rows = MOST_ROWS

    def take(self, rows: Sequence[_Row], size: Callable[[_Row], int]) -> Sequence[_Row]:
        """Return the first of the rows, as many as may be deleted together; `size` is of a row in bytes."""
        left_bytes = MOST_BYTES
        for index, row in enumerate(rows[: self.rows]):
            left_bytes -= size(row)
            if left_bytes < 0 and index:
                return rows[:index]
        return rows[: self.rows]

    def run(self, attempt: Callable[[], _Result]) -> _Result:
        """Make an attempt, which takes a portion; where the disk is full for that, one with the least.

        Raises DiskFull when it is full for that too.
        """
        while True:
            try:
                result = attempt()
            except DiskFull as full:
                if self.rows == FEWEST_ROWS or isinstance(full, FileLostError):
                    raise
                self.rows = FEWEST_ROWS
            else:
                self.rows = min(MOST_ROWS, self.rows * 2)
                return result
