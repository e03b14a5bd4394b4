"""The record that can carry its span: kafka-python's own with a place more."""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any


def with_span_attribute(record_class: type) -> type:
    """Make the subclass of kafka-python's ConsumerRecord whose instances can carry their span.

    An instance equals the plain record and prints as it does. It has the plain one's name, so that it
    pickles to a plain record where kaspan is not, and without its span everywhere. Of a class that can
    already, it is the class itself.
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
