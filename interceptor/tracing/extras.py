"""What the application adds to a span, which few applications do."""

from __future__ import annotations

from opentelemetry.util.types import AttributeValue


class Extras:
    """What the application adds to a span: a name, tags, annotations; and the debug flag."""

    __slots__ = ("annotations", "debug", "dropped_annotations", "dropped_tags", "name", "tags", "values")

    def __init__(self, debug: bool = False) -> None:
        self.debug = debug
        self.name: str | None = None
        self.tags: dict[str, str] = {}
        self.values: dict[str, AttributeValue] = {}
        """Tags with the values as they were set, before their conversion to text."""
        self.annotations: list[tuple[int, str]] = []
        """Pairs of timestamp in us and text."""
        self.dropped_tags = self.dropped_annotations = 0
