"""The record that the application works on now, and the loops that go from one record to the next."""

from __future__ import annotations

import sys
import weakref
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from kaspan.interceptor.failures import finish, is_from_outside, pass_on
from kaspan.interceptor.kafka.unwinding import Place, is_unwinding, place
from kaspan.interceptor.tracing.scope import SPAN_KEY

if TYPE_CHECKING:
    from kaspan.interceptor.kafka.process_span import ConsumerSpans


class RecordScope:
    """The record that the application works on now, with its open span, which is current.

    The span ends when the next record is opened, when the scope is closed, or when it is freed with its loop.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_before",
        "_consumer_spans",
        "_during",
        "_must_report",
        "_record",
        "_span",
        "_started_ns",
        "_timestamp_ns",
        "_token",
    )

    def __init__(self, consumer_spans: ConsumerSpans) -> None:
        self._consumer_spans = consumer_spans
        self._span: Any = None
        self._record: Any = None
        self._asked: Place | None = None

    def open(self, record: Any) -> Any:
        """Make the record's span current. Returns the record. Never raises.

        If the record has a span already, that one becomes current again.
        """
        consumer_spans = self._consumer_spans
        try:
            if type(record) is not consumer_spans.record_class:
                return record
            span, must_report = record.kaspan_span, False
            if span is None:
                excluded_topics = consumer_spans.excluded_topics
                if excluded_topics.known.get(record.topic) is not False and record.topic in excluded_topics:
                    span = consumer_spans.forward(record)
                    if span is None:
                        return record
                else:
                    span, must_report = consumer_spans.start(record)
            self._must_report = must_report
            before = consumer_spans.get_context()
            if before or span.is_left:
                self._before, self._during = consumer_spans.tracing.scope.enter(span, True)
                self._token, span.token = span.token, None
            else:
                # What Scope.enter does if no span is current, without the call.
                self._before = before
                self._during = during = {SPAN_KEY: span}
                self._token = consumer_spans.set_context(during)
            self._record = record
            self._timestamp_ns = time_ns()
            if must_report:
                span.timestamp_ns = self._timestamp_ns
            self._started_ns = perf_counter_ns()
            self._span = span
        except BaseException as error:  # noqa: BLE001 (the record must reach the application)
            self._recover(record, error)
        return record

    def _recover(self, record: Any, error: BaseException) -> None:
        """Finish an interrupted `open`. An exception from outside is raised in the loop's body."""
        if is_from_outside(error):
            span = record.kaspan_span
            if self._consumer_spans.get_context().get(SPAN_KEY) is span is not None:
                self._consumer_spans.set_context(span.outer_context or {})
            self.open(record)
            if span is not None and self._span is span:
                self._must_report = not span.ended
        pass_on("starting a record's span", error)

    def close(self, latest_ns: int = 0) -> None:
        """End the open span, if there is one: now, or at `latest_ns` if that is earlier. Never raises."""
        span = self._span
        if span is None:
            return
        # Copied first: from `leave` on, another thread may close or open this scope.
        work = (span, self._record, self._before, self._during, self._token, self._must_report)
        started_ns, timestamp_ns = self._started_ns, self._timestamp_ns
        ended_ns = perf_counter_ns()
        if 0 < latest_ns < ended_ns:
            ended_ns = latest_ns
        try:
            self._span = self._record = self._token = None
            self._end(*work, timestamp_ns, started_ns, ended_ns)
        except BaseException as error:  # noqa: BLE001 (an interrupted step is repeated)
            finish("ending a record's span", error, self._end, *work, timestamp_ns, started_ns, ended_ns)

    def _end(
        self,
        span: Any,
        record: Any,
        before: Any,
        during: Any,
        token: Any,
        must_report: bool,
        timestamp_ns: int,
        started_ns: int,
        ended_ns: int,
    ) -> None:
        consumer_spans = self._consumer_spans
        consumer_spans.tracing.scope.leave(before, during, span, token)
        if must_report and started_ns >= consumer_spans.reporter.process_start_ns:
            duration_us = (ended_ns - started_ns) // 1000 or 1
            consumer_spans.report("process", record, span, timestamp_ns // 1000, duration_us)

    def __del__(self) -> None:
        try:
            span = getattr(self, "_span", None)
            if span is not None:  # __init__ may have been interrupted
                caller = sys._getframe().f_back  # None: called by Python itself, as at the end of the program
                if self._must_report and caller is not None and is_unwinding(caller, self._asked):
                    span.fail(None)
                self.close()
        except BaseException as error:  # noqa: BLE001 (Python would ignore it)
            pass_on("ending a record's span", error)


class NextScope(RecordScope):
    """The record that `next(consumer)` returned last, in work for at most `interval_ns`.

    Only the next call tells that the work on it is done. Code that finds its span current asks the scope, by
    the span's `expiry`, whether its time is over.
    """

    __slots__ = ("_interval_ns", "_limit_ns", "_reference")

    def __init__(self, consumer_spans: ConsumerSpans, interval_ns: int) -> None:
        super().__init__(consumer_spans)
        self._interval_ns = interval_ns
        self._limit_ns = 0
        self._reference = weakref.ref(self)

    def open(self, record: Any) -> Any:
        """Make the record's span current until its time is over. Returns the record. Never raises."""
        self._limit_ns = perf_counter_ns() + self._interval_ns
        super().open(record)
        try:
            if self._span is not None:
                self._span.expiry = self._reference
        except BaseException as error:  # noqa: BLE001 (the record must reach the application)
            pass_on("bounding a record's span", error)
        return record

    def close(self, latest_ns: int = 0) -> None:
        """End the open span, if there is one, at the end of its time at the latest. Never raises."""
        span = self._span
        super().close(latest_ns or self._limit_ns)
        if span is not None:
            span.expiry = None

    def expire(self, span: Any) -> None:
        """End `span` if it is the open one and its time is over. After that it is not current anywhere."""
        if self._span is span and perf_counter_ns() >= self._limit_ns:
            super().close(self._limit_ns)
            span.is_left = True


class ConsumerLoop(RecordScope):
    """The result of `iter(consumer)`: the consumer's records, each with an open span while it is in work."""

    __slots__ = ("_consumer", "_next_record", "_next_scope")

    def __init__(
        self, consumer_spans: ConsumerSpans, consumer: Any, next_record: Any, next_scope: RecordScope
    ) -> None:
        super().__init__(consumer_spans)
        self._consumer = consumer
        self._next_record = next_record
        self._next_scope = next_scope
        """The record that `next(consumer)` returned last: the loop's next step ends it."""

    def __iter__(self) -> ConsumerLoop:
        return self

    def __next__(self) -> Any:
        if self._span is None:  # the first
            self._asked = place()
        else:
            self.close()
        if self._next_scope._span is not None:
            self._next_scope.close()
        try:
            record = self._next_record(self._consumer)
        except Exception as error:
            self._consumer_spans.report_refused(error)
            raise
        return self.open(record)

    def __getattr__(self, name: str) -> Any:
        # kafka-python's __iter__ returns the consumer itself, and applications may use it.
        return getattr(object.__getattribute__(self, "_consumer"), name)


class ListLoop(RecordScope):
    """Iterates over a RecordList."""

    __slots__ = ("_index", "_records")

    def __init__(self, consumer_spans: ConsumerSpans, records: list[Any]) -> None:
        super().__init__(consumer_spans)
        self._records = records
        self._index = 0

    def __iter__(self) -> ListLoop:
        return self

    def __next__(self) -> Any:
        if self._span is None:  # the first
            self._asked = place()
        else:
            self.close()
        index = self._index
        try:
            record = list.__getitem__(self._records, index)
        except IndexError:
            self._index = len(self._records)
            raise StopIteration from None
        self._index = index + 1
        return self.open(record)

    def __length_hint__(self) -> int:
        return max(0, len(self._records) - self._index)
