"""The lists of records that `poll()` returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, SupportsIndex

from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.failures import finish, pass_on
from kaspan.interceptor.kafka import record_scope

if TYPE_CHECKING:
    from kaspan.interceptor.kafka.process_span import ConsumerSpans


ListLoop = accelerated(record_scope.ListLoop)


def end_list(records: RecordList) -> None:
    """Give every record that was never looked at its span: the list goes away. Never raises."""
    try:
        records.settle()
    except BaseException as error:  # noqa: BLE001 (Python would ignore it)
        pass_on("recording what poll() returned", error)


class RecordList(list[Any]):
    """The records of one partition from one poll. A loop over the list opens a span for each record.

    A record that is taken in another way (by index, popped, replaced) gets a span without a duration at that
    moment. A record that is never taken gets it when the list is freed or emptied, or when the consumer polls
    again and no loop is under way.
    """

    __slots__ = ("__weakref__", "consumer_spans", "loops", "owner")

    consumer_spans: ConsumerSpans
    loops: tuple[weakref.ref[record_scope.ListLoop], ...]
    owner: object
    """An object that must live as long as the list."""

    @classmethod
    def of(cls, records: list[Any], consumer_spans: ConsumerSpans) -> RecordList:
        """Wrap what poll() returned; `consumer_spans` makes the spans."""
        made = cls(records)
        made.loops = ()
        made.consumer_spans = consumer_spans
        return made

    def __iter__(self) -> Iterator[Any]:
        loop = ListLoop(self.consumer_spans, self)
        others = tuple([one for one in self.loops if one() is not None]) if self.loops else ()
        self.loops = (weakref.ref(loop), *others)
        return loop

    def is_looped_over(self) -> bool:
        """Whether a loop over the list is under way."""
        loops = [loop() for loop in self.loops]
        return any(loop is not None and loop.__length_hint__() for loop in loops)

    def end(self) -> None:
        """End the record of each loop, and give all others their spans."""
        for reference in self.loops:
            loop = reference()
            if loop is not None:
                loop.close()
        self.settle()

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        self._report_polled(found if isinstance(index, slice) else [found])
        return found

    def pop(self, index: SupportsIndex = -1) -> Any:
        """Remove and return the record at `index`."""
        record = super().pop(index)
        self._report_polled([record])
        return record

    def remove(self, record: Any) -> None:
        """Remove the first record that equals `record`."""
        removed = self._at(self.index(record)) if record in self else []
        super().remove(record)
        self._report_polled(removed)

    def clear(self) -> None:
        """Remove all records."""
        self.settle()
        super().clear()

    def __delitem__(self, index: Any) -> None:
        removed = self._at(index)
        super().__delitem__(index)
        self._report_polled(removed)

    def __setitem__(self, index: Any, records: Any) -> None:
        removed = self._at(index)
        super().__setitem__(index, records)
        self._report_polled(removed)

    def _at(self, index: Any) -> list[Any]:
        """The records at an index or in a slice; empty if the list will raise for it."""
        try:
            found = super().__getitem__(index)
        except (IndexError, TypeError):
            return []
        return found if isinstance(index, slice) else [found]

    def _report_polled(self, records: Iterable[Any]) -> None:
        for record in records:
            if self.consumer_spans.needs_span(record):
                self.consumer_spans.report_polled(record)

    def settle(self) -> None:
        """Give every record without a span its span."""
        try:
            if hasattr(self, "consumer_spans"):  # `of` may have been interrupted
                self._report_polled(super().__iter__())
        except BaseException as error:  # noqa: BLE001 (an interrupted step is repeated)
            finish("recording what poll() returned", error, self.settle)

    __del__ = accelerated(end_list)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return list, (list(super().__iter__()),)
