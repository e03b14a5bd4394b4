"""Clocks of a store, set by hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class StoreClock:
    """The clock that people set, and the one that runs since the machine started."""

    now_s: float = 1_700_000_000.0
    boot_s: float = 1000.0

    def clock_s(self) -> float:
        return self.now_s

    def boot_clock_s(self) -> float:
        return self.boot_s

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.boot_s += seconds

    def set(self, seconds: float) -> None:
        """Set the clock forward, or back by a negative number; no time passes."""
        self.now_s += seconds
