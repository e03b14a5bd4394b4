"""How many rows one transaction deletes: many while the disk has space, few on a full disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from kaspan.agent.spool.database import DiskFull, FileLostError

FEWEST_ROWS = 32
"""On a full disk only the reserved space of the journal is left: a page for each row, and a few more."""
MOST_ROWS = 2048
"""With one span a row, these fill the pages that the journal keeps between transactions."""
MOST_BYTES = 16 * 1024 * 1024
"""Deleting a row reads its content, and all other transactions wait meanwhile."""

_Row = TypeVar("_Row")
_Result = TypeVar("_Result")


class Portions:
    """The size of the next portion. A flush of the disk costs the same for few rows as for many."""

    def __init__(self) -> None:
        self.rows = MOST_ROWS

    def take(self, rows: Sequence[_Row], size: Callable[[_Row], int]) -> Sequence[_Row]:
        """Return the first rows, as many as one transaction may delete; `size` returns a row's bytes."""
        left_bytes = MOST_BYTES
        for index, row in enumerate(rows[: self.rows]):
            left_bytes -= size(row)
            if left_bytes < 0 and index:
                return rows[:index]
        return rows[: self.rows]

    def run(self, attempt: Callable[[], _Result]) -> _Result:
        """Call `attempt`, which changes a portion; if the disk is full for it, again with the smallest one.

        Raises DiskFull if the disk is full for that too.
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
