"""What a query may take: time, and bytes of spans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

_MIB = 1024 * 1024


class QueryLimitError(Exception):
    """A query took too long or found too much; the message is for the person who asked."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one query.

    `timeout_s` is how many seconds it may take to the answer, or to its next portion. `max_bytes` bounds the
    JSON of the whole answer, and `max_list_bytes` that of a list of traces, which is in memory as a whole and
    takes about four times as much there.
    """

    timeout_s: float = 11.0
    max_bytes: int = 256 * _MIB
    max_list_bytes: int = 16 * _MIB


class Budget:
    """What one query has used of its limits. Each method raises QueryLimitError when a limit is passed."""

    def __init__(self, limits: Limits, clock_s: Callable[[], float]) -> None:
        self._limits = limits
        self._clock_s = clock_s
        self._bytes = 0
        self.restart()

    def check_time(self) -> None:
        """Raise if the time is over."""
        if self._clock_s() > self._deadline_s:
            raise QueryLimitError(
                f"The query takes more than {self._limits.timeout_s:g} seconds. Ask for less time (endTs and "
                "lookback), for a service, or for fewer traces (limit)."
            )

    def add_bytes(self, size: int) -> None:
        """Count JSON of the answer."""
        self._bytes += size
        if self._bytes > self._limits.max_bytes:
            raise QueryLimitError(
                f"The answer has more than {self._limits.max_bytes} bytes of spans. Ask for fewer traces "
                "(limit) or for less time (endTs and lookback)."
            )

    def check_list(self, size: int) -> None:
        """Check the JSON of all traces of a list."""
        if size > self._limits.max_list_bytes:
            raise QueryLimitError(
                f"The traces have more than {self._limits.max_list_bytes} bytes of spans. Ask for fewer "
                "traces (limit), for less time (endTs and lookback), or for one trace by its id."
            )

    def restart(self) -> None:
        """Begin to count time again: a part of the answer was there, and the caller has taken it."""
        self._deadline_s = self._clock_s() + self._limits.timeout_s
