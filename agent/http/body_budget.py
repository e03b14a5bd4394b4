"""Limits the memory for the request bodies of all clients together."""

from __future__ import annotations


class BodyBudget:
    """A budget of `max_bytes` for all request bodies, of which `held_bytes` are in use."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def has(self, size: int) -> bool:
        """Whether `size` more bytes fit."""
        return self.held_bytes + size <= self.max_bytes


class BodyReservation:
    """One request's part of a budget. `release` may be called repeatedly, and frees it once."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> bool:
        """Reserve `size` more bytes; False if they do not fit."""
        if not self._budget.has(size):
            return False
        self._budget.held_bytes += size
        self.size += size
        return True

    def release(self) -> None:
        """Free the reserved bytes."""
        self._budget.held_bytes -= self.size
        self.size = 0
