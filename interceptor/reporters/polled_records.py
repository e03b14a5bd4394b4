"""How many of the records that poll() returned have a span that says nothing of the work on them."""

from __future__ import annotations

from collections.abc import Callable


class PolledRecords:
    """Counts the records of one process that `poll()` returned, and those of them without a length.

    A span has no length if its record was taken elsewhere: out of the list in another way than by a loop, or
    by a loop that only copied the list. `tell(records, without_length)` is called when the numbers change,
    for a reporter that shows them; it must not block or raise.
    """

    def __init__(self) -> None:
        self.records = self.without_length = 0
        self._tell: Callable[[int, int], None] | None = None

    def tell(self, tell: Callable[[int, int], None]) -> None:
        """Call `tell` now and from now on."""
        self._tell = tell
        self._changed()

    def returned(self, records: int) -> None:
        """Count what one poll() returned."""
        self.records += records
        self._changed()

    def left(self, records: int = 1) -> None:
        """Count records whose spans have no length."""
        self.without_length += records
        self._changed()

    def _changed(self) -> None:
        if self._tell is not None and self.without_length:
            self._tell(self.records, self.without_length)
