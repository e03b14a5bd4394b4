"""CONSUMER spans: one for each delivered record, open and current while the application works on it."""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from typing import Any

from kaspan.interceptor.failures import suppress
from kaspan.interceptor.records import RecordList
from kaspan.interceptor.scope import SPAN_KEY
from kaspan.interceptor.span import PassedSpan, RecordSpan
from kaspan.interceptor.templates import (
    Tags,
    extras_parts,
    key_part,
    ordinary_template,
    parent_part,
    quote,
    span_template,
)
from kaspan.interceptor.tracing import Tracing

_MAX_LANES = 10_000
_PARENT = b',"parentId":"%b"'
_OFFSET_AND_KEY = b',"messaging.kafka.offset":"%d"%b'
_TIMES = b',"kafka.queue_time_ms":"%d","kafka.lag":"%d"'


class Lane:
    """The JSON of the spans of one topic and partition in one consumer, but for what differs each time.

    `ordinary` is for the record that nearly all are like: with a parent, its sender's timestamp and a known
    lag, and nothing added by the application. It is filled in at once, where `general`, for all others, is
    put together from parts, at twice the cost.
    """

    __slots__ = ("general", "names", "ordinary")

    def __init__(self, tracing: Tracing, topic: str, partition: int, tags: Tags) -> None:
        self.names = {}
        self.general = {}
        for operation in ("poll", "process"):
            all_tags = [
                ("kafka.topic", topic),
                ("messaging.system", "kafka"),
                ("messaging.operation.name", operation),
                ("messaging.destination.name", topic),
                ("messaging.destination.partition.id", str(partition)),
                *tags,
            ]
            self.names[operation] = quote(f"{operation} {topic}")
            self.general[operation] = span_template(
                "CONSUMER", tracing.service, tracing.remote_service, topic, all_tags, _OFFSET_AND_KEY
            )
        self.ordinary = ordinary_template(
            self.general["process"], _PARENT, self.names["process"], b"", _TIMES
        )


class Processing:
    """The spans of one consumer: its group and client, and the lanes of its partitions."""

    def __init__(self, consumer: Any, record_class: type, tracing: Tracing) -> None:
        self.tracing = tracing
        self.record_class: Any = record_class
        self.excluded = tracing.excluded
        self.get_context = tracing.scope.get
        self.set_context = tracing.scope.set
        # Not the consumer: what lives as long as a list of records must not keep a consumer alive.
        self._subscription = consumer._subscription
        tags = {
            "messaging.consumer.group.name": consumer.config.get("group_id"),
            "messaging.client.id": consumer.config.get("client_id"),
        }
        self._tags = [(key, str(value)) for key, value in tags.items() if value]
        self._lanes: dict[tuple[str, int], Lane] = {}

    def is_plain(self, record: Any) -> bool:
        """Whether the record came from kafka-python just now, without a span yet, and should have one."""
        return (
            type(record) is self.record_class
            and record.kaspan_span is None
            and record.topic not in self.tracing.excluded
        )

    def loop(self, records: RecordList) -> ListLoop:
        """Iterate over what poll() returned."""
        return ListLoop(self, records)

    def start(self, record: Any) -> tuple[RecordSpan, bool]:
        """Make the span of a record that has none, and let the record carry it.

        The parent is who sent the record; only where its headers do not say, the span in scope. Returns the
        span that the record carries, and whether it is the caller's to report: not if another thread was
        faster.
        """
        tracing = self.tracing
        headers = record.headers
        parent = tracing.propagation.extract(headers) if headers else None
        span = tracing.child_of(parent or tracing.current(but_of=self), "receive", record.topic)
        span.consumer = self
        if tracing.captured is not None and headers and span.sampled:
            span.set_attributes(dict(tracing.captured.tags(headers)))
        if parent is not None and len(headers) > 1:
            span.headers = headers
        carried: RecordSpan = record.__dict__.setdefault("kaspan_span", span)
        return carried, carried is span

    def pass_on(self, record: Any) -> PassedSpan | None:
        """Make what is current while a record of an excluded topic is worked on; None if nothing need be."""
        return PassedSpan(self.tracing.propagation.extract, record.headers) if record.headers else None

    def received(self, record: Any) -> None:
        """Record that poll() returned a record whose processing cannot be seen. Never raises."""
        try:
            span, is_mine = self.start(record)
            if is_mine:
                self.report("poll", record, span, time_ns() // 1000, 1)
        except Exception as error:  # noqa: BLE001
            suppress("recording a polled record", error)

    def report(
        self, operation: str, record: Any, span: RecordSpan, timestamp_us: int, duration_us: int
    ) -> None:
        """End the span of a record; nothing is written for one that is not sampled."""
        span.ended = True
        if not span.sampled:
            return
        place = (record.topic, record.partition)
        lane = self._lanes.get(place) or self._lane(*place)
        parent_id, offset, sent_ms = span.parent_id, record.offset, record.timestamp
        # kafka-python's TopicPartition is a tuple, so this finds it in the dict without making one.
        assigned = self._subscription.assignment.get(place)
        highwater = None if assigned is None else assigned.highwater
        lag = -1 if highwater is None else highwater - offset - 1
        # Without a timestamp, or by another clock in the future, there is no queue time to tell.
        queued_ms = timestamp_us // 1000 - sent_ms if sent_ms is not None and sent_ms > 0 else -1
        if (
            lag >= 0
            and queued_ms >= 0
            and parent_id is not None
            and span.extras is None
            and record.value is not None
            and operation == "process"
        ):
            self.tracing.report(
                lane.ordinary
                % (
                    span.trace_id,
                    span.span_id,
                    parent_id,
                    timestamp_us,
                    duration_us,
                    offset,
                    key_part(record.key),
                    queued_ms,
                    lag,
                )
            )
            return
        tags = b""
        if queued_ms >= 0:
            tags += b',"kafka.queue_time_ms":"%d"' % queued_ms
        if lag >= 0:
            tags += b',"kafka.lag":"%d"' % lag
        if record.value is None:
            tags += b',"messaging.kafka.message.tombstone":"true"'
        name, annotations, added = extras_parts(span.extras)
        self.tracing.report(
            lane.general[operation]
            % (
                span.trace_id,
                span.span_id,
                parent_part(parent_id, span.debug),
                name or lane.names[operation],
                timestamp_us,
                duration_us,
                annotations,
                offset,
                key_part(record.key),
                tags + added,
            )
        )

    def _lane(self, topic: str, partition: int) -> Lane:
        if len(self._lanes) >= _MAX_LANES:
            self._lanes.clear()
        made = self._lanes[topic, partition] = Lane(self.tracing, topic, partition, self._tags)
        return made


class Cursor:
    """The one record that the application works on now, and its open span, current in its thread.

    The span ends when the cursor moves on, is closed, or goes away because the loop did.
    """

    __slots__ = (
        "__weakref__",
        "_before",
        "_during",
        "_is_mine",
        "_processing",
        "_record",
        "_span",
        "_started_ns",
        "_timestamp_ns",
    )

    def __init__(self, processing: Processing) -> None:
        self._processing = processing
        self._span: Any = None
        self._record: Any = None

    def open(self, record: Any) -> Any:
        """Make the record's span current; returns the record. Never raises.

        A record that has a span already, because it was looked at before, gets no second one: the one it
        has becomes current again.
        """
        processing = self._processing
        try:
            if type(record) is not processing.record_class:
                return record
            span, is_mine = record.kaspan_span, False
            if span is None:
                excluded = processing.excluded
                if excluded.known.get(record.topic) is not False and record.topic in excluded:
                    span = processing.pass_on(record)
                    if span is None:
                        return record
                else:
                    span, is_mine = processing.start(record)
            self._is_mine = is_mine
            before = processing.get_context()
            if before or span.left:
                self._before, self._during = processing.tracing.scope.enter(span)
            else:
                # What Scope.enter does outside of any span, without the call.
                self._before = before
                self._during = during = {SPAN_KEY: span}
                processing.set_context(during)
            self._record = record
            self._timestamp_ns = time_ns()
            self._started_ns = perf_counter_ns()
            self._span = span
        except Exception as error:  # noqa: BLE001
            suppress("starting a record's span", error)
        return record

    def close(self) -> None:
        """End the open span, if there is one. Never raises."""
        span = self._span
        if span is None:
            return
        ended_ns = perf_counter_ns()
        self._span = None
        try:
            processing = self._processing
            tracing = processing.tracing
            tracing.scope.leave(self._before, self._during, span)
            started_ns = self._started_ns
            if self._is_mine and started_ns >= tracing.born_ns:
                duration_us = (ended_ns - started_ns) // 1000 or 1
                processing.report("process", self._record, span, self._timestamp_ns // 1000, duration_us)
        except Exception as error:  # noqa: BLE001
            suppress("ending a record's span", error)

    def __del__(self) -> None:
        self.close()


class ConsumerLoop(Cursor):
    """What `iter(consumer)` returns: the consumer's own records, each with its span while it is worked on."""

    __slots__ = ("_consumer", "_next_record", "_other")

    def __init__(self, processing: Processing, consumer: Any, next_record: Any, other: Cursor) -> None:
        super().__init__(processing)
        self._consumer = consumer
        self._next_record = next_record
        self._other = other
        """The record that `next(consumer)` returned last, which going on with the loop ends."""

    def __iter__(self) -> ConsumerLoop:
        return self

    def __next__(self) -> Any:
        self.close()
        if self._other._span is not None:
            self._other.close()
        return self.open(self._next_record(self._consumer))

    def __getattr__(self, name: str) -> Any:
        # kafka-python returns the consumer itself here, and somebody may rely on it.
        return getattr(self._consumer, name)


class ListLoop(Cursor):
    """Iterates over a RecordList."""

    __slots__ = ("_index", "_records")

    def __init__(self, processing: Processing, records: RecordList) -> None:
        super().__init__(processing)
        self._records = records
        self._index = 0

    def __iter__(self) -> ListLoop:
        return self

    def __next__(self) -> Any:
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
