"""A place in the application whose calls are spans."""

from __future__ import annotations


class TracedFunction:
    """A place in the application whose calls are spans: the spans' name, and the function's full one."""

    __slots__ = ("code_name", "is_called", "literals", "name")

    def __init__(self, name: str, code_name: str = "") -> None:
        self.name = name
        self.code_name = code_name
        self.is_called = False
        self.literals: tuple[bytes, bytes] | None = None
        """Name and tags in JSON, once they were needed."""
