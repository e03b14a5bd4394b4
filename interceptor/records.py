"""Records that carry their span, and the lists of them that `poll()` returns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex

from kaspan.interceptor.failures import suppress

if TYPE_CHECKING:
    from kaspan.interceptor.processing import Processing


@functools.cache
def traced_record(record_class: type) -> type:
    """The subclass of kafka-python's ConsumerRecord whose instances carry their span.

    An instance equals the plain record, prints as it does, and pickles and copies to a plain one, so that
    it can be sent to where kaspan is not.
    """

    def reduce(self: Any) -> tuple[Any, ...]:
        return record_class, tuple(self)

    members = {
        "__module__": record_class.__module__,
        "__qualname__": record_class.__qualname__,
        "__doc__": record_class.__doc__,
        "__reduce__": reduce,
        "kaspan_span": None,
    }
    return type(record_class.__name__, (record_class,), members)


class RecordList(list[Any]):
    """The records of one partition from one poll; a span is open for each while it is looped over.

    A record taken in another way (by index, by popping) gets its span, of no length, when it is taken; those
    never taken get theirs when the list goes away, is emptied, or the consumer polls again.
    """

    __slots__ = ("__weakref__", "_untouched", "processing")

    processing: Processing
    _untouched: int

    @classmethod
    def of(cls, records: list[Any], processing: Processing) -> RecordList:
        """Wrap what poll() returned; `processing` makes the spans."""
        made = cls(records)
        made.processing = processing
        made._untouched = len(records)
        return made

    def __iter__(self) -> Iterator[Any]:
        return self.processing.loop(self)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self.take(at) for at in range(*index.indices(len(self)))]
        return self.take(index)

    def pop(self, index: SupportsIndex = -1) -> Any:
        """Remove and return the record at `index`."""
        self.take(index)
        return super().pop(index)

    def clear(self) -> None:
        """Remove all records."""
        self.settle()
        super().clear()

    def __delitem__(self, index: Any) -> None:
        self.settle()
        super().__delitem__(index)

    def take(self, index: SupportsIndex) -> Any:
        """The record at `index`, with its span: one of no length if it has none yet."""
        record = super().__getitem__(index)
        if self.processing.is_plain(record):
            record = self.processing.received(record)
            self.keep(index, record)
        return record

    def keep(self, index: SupportsIndex, record: Any) -> None:
        """Put the record that carries its span in the place of the plain one."""
        super().__setitem__(index, record)
        self._untouched -= 1

    def settle(self) -> None:
        """Give every record that was never looked at its span."""
        if self._untouched > 0:
            for index in range(len(self)):
                self.take(index)

    def __del__(self) -> None:
        try:
            self.settle()
        except Exception as error:  # noqa: BLE001
            suppress("recording what poll() returned", error)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return list, (list(super().__iter__()),)
