"""A subclass of kafka-python's ConsumerRecord with one more attribute: its span."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any


def with_span_attribute(record_class: type) -> type:
    """Make a subclass of kafka-python's ConsumerRecord with the attribute `kaspan_span`.

    Its records equal plain ones, print like them, and have the class's name, so that they pickle as plain
    records; the span is never pickled. Returns the class itself if it already has the attribute.
    """
    if hasattr(record_class, "kaspan_span"):
        return record_class

    def reduce(self: Any) -> tuple[Any, ...]:
        return type(self), tuple(self)

    members = {
        "__module__": record_class.__module__,
        "__qualname__": record_class.__qualname__,
        "__doc__": record_class.__doc__,
        "__reduce__": reduce,
        "kaspan_span": None,
    }
    return type(record_class.__name__, (record_class,), members)
