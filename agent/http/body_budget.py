"""How much of what clients send is held at a time, whoever sends it."""

from __future__ import annotations


class BodyBudget:
    """The bytes that all clients together may have here: `held_bytes` of at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def has(self, size: int) -> bool:
        """Whether so many bytes more may be held."""
        return self.held_bytes + size <= self.max_bytes


class BodyReservation:
    """A part of a room. What it has is given back once, however often it is released."""

    __slots__ = ("_budget", "size")

    def __init__(self, budget: BodyBudget) -> None:
        self._budget = budget
        self.size = 0

    def grow(self, size: int) -> bool:
        """Hold so many bytes more; False if there is no room for them."""
        if not self._budget.has(size):
            return False
        self._budget.held_bytes += size
        self.size += size
        return True

    def release(self) -> None:
        """Give back what is held."""
        self._budget.held_bytes -= self.size
        self.size = 0
