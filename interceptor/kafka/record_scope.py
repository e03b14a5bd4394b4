"""The record that the application works on now, and the loops that go from one record to the next.

Every record that is received goes through here. Python runs this file as it is, and `compiled.pyx` includes
it (see `cython`). What is C there is Python in `primitives`. This file does all for an ordinary record, and
leaves the others to ConsumerSpans.
"""
# Nothing is imported from __future__: in an included file it would be too late for that.

import weakref

from kaspan.interceptor import cython
from kaspan.interceptor.failures import is_from_outside, pass_on, record_failure

if not cython.compiled:
    import sys
    from typing import TYPE_CHECKING, Any

    from kaspan.interceptor.kafka.primitives import (
        Current,
        fill_process,
        is_collecting,
        is_ordinary_b3,
        item,
        new,
        new_id,
        part,
        pass_on_from_finalizer,
        performance_clock_ns,
        wall_clock_ns,
    )
    from kaspan.interceptor.kafka.unwinding import is_unwinding, place
    from kaspan.interceptor.tracing.scope import SPAN_KEY
    from kaspan.interceptor.tracing.span_ids import ForwardedContext, ScopedSpan, SpanIds

    if TYPE_CHECKING:
        from kaspan.interceptor.kafka.process_span import ConsumerSpans


@cython.cclass
class RecordScope:
    """The record that the application works on now, with its open span, which is current.

    The span ends when the next record is opened, when the scope is closed, or when it is freed with its loop.
    """

    __slots__ = (
        "__weakref__",
        "_before",
        "_captures_no_headers",
        "_consumer_spans",
        "_current",
        "_during",
        "_excluded_topics",
        "_extract",
        "_forwarded_class",
        "_headers",
        "_is_b3_first",
        "_key",
        "_known",
        "_longest_us",
        "_loop_place",
        "_must_report",
        "_offset",
        "_partition",
        "_record",
        "_record_class",
        "_reporter",
        "_span",
        "_span_class",
        "_started_ns",
        "_subscription",
        "_templates",
        "_timestamp",
        "_timestamp_ns",
        "_token",
        "_topic",
        "_tracing",
        "_value",
    )

    __weakref__: object
    _consumer_spans: Any
    _tracing: Any
    _reporter: Any
    _excluded_topics: Any
    _record_class: Any
    _subscription: Any
    _extract: Any
    _span_class: Any
    _forwarded_class: Any
    _current: Current
    _known: dict[Any, Any]
    """The results of ExcludedTopics: whether a topic is excluded, if that was looked up before."""
    _templates: dict[Any, Any]
    # Where in a record its fields are.
    _topic: cython.Py_ssize_t
    _partition: cython.Py_ssize_t
    _offset: cython.Py_ssize_t
    _timestamp: cython.Py_ssize_t
    _key: cython.Py_ssize_t
    _value: cython.Py_ssize_t
    _headers: cython.Py_ssize_t
    _captures_no_headers: cython.bint
    _is_b3_first: cython.bint
    _must_report: cython.bint
    _before: Any
    _during: Any
    _token: Any
    _record: Any
    _span: Any
    _started_ns: cython.longlong
    _timestamp_ns: cython.longlong
    _longest_us: cython.longlong
    """Of the spans that were reported; 0 before the first."""
    _loop_place: Any
    """The place in the code of the loop, for `is_unwinding`: where the first record was asked for."""

    def __init__(self, consumer_spans: "ConsumerSpans") -> None:
        self._span = self._record = self._before = self._during = self._token = self._loop_place = None
        self._longest_us = 0
        tracing = consumer_spans.tracing
        self._consumer_spans, self._tracing, self._reporter = consumer_spans, tracing, tracing.reporter
        self._excluded_topics = consumer_spans.excluded_topics
        self._known, self._templates = consumer_spans.excluded_topics.known, consumer_spans.templates
        self._current = Current(tracing.scope)
        self._record_class, self._span_class = consumer_spans.record_class, consumer_spans.span_class
        self._forwarded_class = consumer_spans.forwarded_class
        self._subscription, self._extract = consumer_spans.subscription, tracing.propagation.extract
        self._is_b3_first = tracing.propagation.is_b3_first
        self._captures_no_headers = tracing.captured_headers is None
        (
            self._topic,
            self._partition,
            self._offset,
            self._timestamp,
            self._key,
            self._value,
            self._headers,
        ) = consumer_spans.field_positions
        self._must_report = False
        self._timestamp_ns = self._started_ns = 0

    def open(self, record: Any) -> Any:
        """Make the record's span current. Returns the record. Never raises.

        If the record has a span already, that one becomes current again.
        """
        return self._open(record)

    def close(self) -> None:
        """End the open span, if there is one. Never raises."""
        self._close()

    def __del__(self) -> None:
        try:
            if not cython.compiled:
                if getattr(self, "_span", None) is None:  # __init__ may have been interrupted
                    return
                caller = sys._getframe().f_back  # None: called by Python itself, as at the end of the program
                if self._must_report and caller is not None and is_unwinding(caller, self._loop_place):
                    self._span.fail(None)
            self._close()
        except BaseException as error:  # noqa: BLE001 (Python would ignore it)
            pass_on_from_finalizer("ending a record's span", error)

    @cython.cfunc
    def _open(self, record: Any) -> Any:
        try:
            if type(record) is not self._record_class:
                return record
            fields: tuple[Any, ...] = cython.cast(tuple, record)
            span = record.kaspan_span
            # Not the attribute: calls from here on may let another thread open a record in this scope.
            must_report: cython.bint = False
            if span is None:
                topic = fields[self._topic]
                is_excluded = self._known.get(topic)
                if is_excluded is None:
                    is_excluded = topic in self._excluded_topics
                if is_excluded:
                    headers = fields[self._headers]
                    if not headers:
                        return record
                    forwarded: ForwardedContext = cython.cast(ForwardedContext, new(self._forwarded_class))
                    forwarded._extract, forwarded._headers = self._extract, headers
                    span = forwarded
                else:
                    span = self._start(record, fields)
                    must_report = self._must_report
            scoped: ScopedSpan = cython.cast(ScopedSpan, span)
            before = self._current.get()
            if before or scoped.is_left:
                self._before, self._during = self._tracing.scope.enter(span, True)
                self._token, scoped.token = scoped.token, None
            else:
                # What Scope.enter does if no span is current, without the call.
                self._before = before
                self._during = {SPAN_KEY: span}
                self._token = self._current.enter(self._during)
            self._span, self._must_report, self._record = span, must_report, None
            if must_report:
                ids: SpanIds = cython.cast(SpanIds, span)
                if ids.sampled:
                    self._record = record
                    self._timestamp_ns = ids.timestamp_ns = wall_clock_ns()
                    self._started_ns = performance_clock_ns()
        except BaseException as error:  # noqa: BLE001 (the record must reach the application)
            self._recover(record, error)
        return record

    @cython.cfunc
    @cython.exceptval(-1)
    def _recover(self, record: Any, error: Any) -> cython.bint:
        """Finish an interrupted `_open`. What `is_from_outside` is raised in the loop's body."""
        if is_from_outside(error):
            span = record.kaspan_span
            self._span = self._record = None
            if span is not None and self._current.get().get(SPAN_KEY) is span:
                self._current.set(span.outer_context or {})
            self._open(record)
            if span is not None and self._span is span and span.sampled and not span.ended:
                self._must_report, self._record = True, record
                self._timestamp_ns, self._started_ns = wall_clock_ns(), performance_clock_ns()
        pass_on("starting a record's span", error)
        return False

    @cython.cfunc
    def _start(self, record: Any, fields: tuple[Any, ...]) -> Any:
        """Make the span of a record that has none: here, where the b3 header is its last and says all."""
        headers = fields[self._headers]
        if self._captures_no_headers and self._is_b3_first and type(headers) is list and headers:
            listed: list[Any] = headers
            name, value = listed[len(listed) - 1]
            if name == "b3" and is_ordinary_b3(value):
                span: SpanIds = cython.cast(SpanIds, new(self._span_class))
                span.trace_id = part(value, 0, 32)
                span.span_id = new_id()
                span.parent_id = part(value, 33, 49)
                span.sampled = cython.cast(bytes, value)[50] == ord("1")
                span.consumer = self._consumer_spans
                span.topic = fields[self._topic]
                if len(listed) > 1:
                    span.headers = headers
                carried = cython.cast(dict, record.__dict__).setdefault("kaspan_span", span)
                self._must_report = carried is span
                return carried
        carried, self._must_report = self._consumer_spans.start(record)
        return carried

    @cython.cfunc
    @cython.exceptval(-1)
    def _close(self) -> cython.bint:
        return self._close_by(0)

    @cython.cfunc
    @cython.exceptval(-1)
    def _close_by(self, latest_ns: cython.longlong) -> cython.bint:
        """End the open span, if there is one: now, or at `latest_ns` if that is earlier and not 0."""
        span = self._span
        if span is None:
            return False
        # Copied first: from `leave` on, another thread may close or open this scope.
        before, during, token, record = self._before, self._during, self._token, self._record
        must_report: cython.bint = self._must_report
        started_ns: cython.longlong = self._started_ns
        timestamp_ns: cython.longlong = self._timestamp_ns
        ended_ns: cython.longlong = performance_clock_ns() if record is not None else 0
        if 0 < latest_ns < ended_ns:
            ended_ns = latest_ns
        try:
            self._span = self._record = self._token = None
            self._end(span, before, during, token, record, must_report, timestamp_ns, started_ns, ended_ns)
        except BaseException as error:  # noqa: BLE001 (an interrupted step is repeated)
            if is_from_outside(error):
                self._end(
                    span, before, during, token, record, must_report, timestamp_ns, started_ns, ended_ns
                )
            record_failure("ending a record's span", error)
        return False

    @cython.cfunc
    @cython.exceptval(-1)
    def _fail(self, error: Any) -> cython.bint:
        if self._must_report and self._record is not None:
            self._span.fail(error)
        return False

    @cython.cfunc
    @cython.exceptval(-1)
    def _end(
        self,
        span: Any,
        before: Any,
        during: Any,
        token: Any,
        record: Any,
        must_report: cython.bint,
        timestamp_ns: cython.longlong,
        started_ns: cython.longlong,
        ended_ns: cython.longlong,
    ) -> cython.bint:
        if (
            before
            or is_collecting()
            or self._current.get() is not during
            or not self._current.leave(before, token)
        ):
            self._tracing.scope.leave(before, during, span, token)
        if record is None:
            if must_report:
                cython.cast(SpanIds, span).ended = True
            return False
        process_start_ns: cython.longlong = self._reporter.process_start_ns
        if started_ns >= process_start_ns:
            duration_us: cython.longlong = (ended_ns - started_ns) // 1000
            # Below 0 where `open` took longer than NextScope's interval.
            if duration_us < 1:  # noqa: PLR1730 (as below)
                duration_us = 1
            if duration_us > self._longest_us:  # noqa: PLR1730 (a call for each record)
                self._longest_us = duration_us
            self._report(record, span, timestamp_ns // 1000, duration_us)
        return False

    @cython.cfunc
    @cython.exceptval(-1)
    def _report(
        self, record: Any, span: SpanIds, timestamp_us: cython.longlong, duration_us: cython.longlong
    ) -> cython.bint:
        """Report the span: here, if the record is like nearly all, with a parent, a timestamp and a lag."""
        fields: tuple[Any, ...] = cython.cast(tuple, record)
        # kafka-python's TopicPartition is a tuple, so this finds it in the dict without making one.
        topic_partition = (fields[self._topic], fields[self._partition])
        templates = self._templates.get(topic_partition)
        assigned = self._subscription.assignment.get(topic_partition)
        highwater = None if assigned is None else assigned.highwater
        sent = fields[self._timestamp]
        if (
            templates is not None
            and highwater is not None
            and sent is not None
            and span.parent_id is not None
            and span.extras is None
            and fields[self._value] is not None
        ):
            end_offset: cython.longlong = highwater
            offset: cython.longlong = fields[self._offset]
            sent_ms: cython.longlong = sent
            lag: cython.longlong = end_offset - offset - 1
            # Without a timestamp, or by another clock in the future, there is no queue time to tell.
            queued_ms: cython.longlong = timestamp_us // 1000 - sent_ms
            if lag >= 0 and queued_ms >= 0 and sent_ms > 0:
                span.ended = True
                self._reporter.report(
                    fill_process(
                        templates.ordinary,
                        span.trace_id,
                        span.span_id,
                        span.parent_id,
                        timestamp_us,
                        duration_us,
                        offset,
                        fields[self._key],
                        queued_ms,
                        lag,
                    )
                )
                return False
        self._consumer_spans.report("process", record, span, timestamp_us, duration_us)
        return False


@cython.cclass
class NextScope(RecordScope):
    """The record that `next(consumer)` returned last, in work for at most `interval_ns`.

    Only the next call tells that the work on it is done. Code that finds its span current asks the scope, by
    the span's `expiry`, whether its time is over.
    """

    __slots__ = ("_interval_ns", "_limit_ns", "_reference")

    _interval_ns: cython.longlong
    _limit_ns: cython.longlong
    _reference: Any

    def __init__(self, consumer_spans: "ConsumerSpans", interval_ns: cython.longlong) -> None:
        RecordScope.__init__(self, consumer_spans)
        self._interval_ns = interval_ns
        self._limit_ns = 0
        self._reference = weakref.ref(self)

    def open(self, record: Any) -> Any:
        """Make the record's span current until its time is over. Returns the record. Never raises."""
        self._limit_ns = performance_clock_ns() + self._interval_ns
        self._open(record)
        try:
            if self._span is not None:
                cython.cast(ScopedSpan, self._span).expiry = self._reference
        except BaseException as error:  # noqa: BLE001 (the record must reach the application)
            pass_on("bounding a record's span", error)
        return record

    @cython.cfunc
    @cython.exceptval(-1)
    def _close(self) -> cython.bint:
        span = self._span
        self._close_by(self._limit_ns)
        if span is not None:
            cython.cast(ScopedSpan, span).expiry = None
        return False

    def expire(self, span: Any) -> None:
        """End `span` if it is the open one and its time is over. After that it is not current anywhere."""
        if self._span is span and performance_clock_ns() >= self._limit_ns:
            self._close_by(self._limit_ns)
            cython.cast(ScopedSpan, span).is_left = True


@cython.cclass
class ConsumerLoop(RecordScope):
    """The result of `iter(consumer)`: the consumer's records, each with an open span while it is in work."""

    __slots__ = ("_consumer", "_next_record", "_next_scope")

    _consumer: Any
    _next_record: Any
    _next_scope: RecordScope
    """The record that `next(consumer)` returned last, which going on with the loop ends."""

    def __init__(
        self, consumer_spans: "ConsumerSpans", consumer: Any, next_record: Any, next_scope: RecordScope
    ) -> None:
        RecordScope.__init__(self, consumer_spans)
        self._consumer, self._next_record, self._next_scope = consumer, next_record, next_scope

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if not cython.compiled and self._span is None:  # the first
            self._loop_place = place()
        self._close()
        if self._next_scope._span is not None:
            self._next_scope._close()
        try:
            record = self._next_record(self._consumer)
        except Exception as error:
            self._consumer_spans.report_refused(error)
            raise
        return self._open(record)

    def __getattr__(self, name: str) -> Any:
        # kafka-python's __iter__ returns the consumer itself, and applications may use it.
        if cython.compiled:
            return getattr(self._consumer, name)
        return getattr(object.__getattribute__(self, "_consumer"), name)


@cython.cclass
class ListLoop(RecordScope):
    """Iterates over a RecordList."""

    __slots__ = ("_index", "_records")

    _index: cython.Py_ssize_t
    _records: list[Any]

    def __init__(self, consumer_spans: "ConsumerSpans", records: Any) -> None:
        RecordScope.__init__(self, consumer_spans)
        self._records = cython.cast(list, records)
        self._index = 0

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        if not cython.compiled and self._span is None:  # the first
            self._loop_place = place()
        self._close()
        try:
            record = item(self._records, self._index)
        except IndexError:
            self._index = len(self._records)
            if 0 < self._longest_us <= 5:  # a loop in which no record takes longer only copies the list
                self._consumer_spans.report_copied(self._index)
                self._longest_us = 0
            raise StopIteration from None
        self._index += 1
        return self._open(record)

    def __length_hint__(self) -> int:
        return max(0, len(self._records) - self._index)
