"""A function of the application whose calls are spans."""

from __future__ import annotations


class TracedFunction:
    """A function whose calls are spans: the name of the spans, and the full name of the function."""

    __slots__ = ("code_name", "is_called", "literals", "name")

    def __init__(self, name: str, code_name: str = "") -> None:
        self.name = name
        self.code_name = code_name
        self.is_called = False
        self.literals: tuple[bytes, bytes] | None = None
        """Name and tags as JSON, made for the first span."""
