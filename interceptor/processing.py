"""CONSUMER spans: one for each delivered record, open and current while the application works on it."""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from typing import Any

from kaspan.interceptor.failures import suppress
from kaspan.interceptor.records import RecordList
from kaspan.interceptor.span import RecordSpan
from kaspan.interceptor.templates import (
    annotations_part,
    key_part,
    parent_part,
    quote,
    span_template,
    tag_part,
)
from kaspan.interceptor.tracing import Tracing

_MAX_TEMPLATES = 10_000
_OFFSET = b',"messaging.kafka.offset":"%d"'


class Processing:
    """The spans of one consumer: its group and client, and a template per operation, topic and partition."""

    def __init__(self, consumer: Any, record_class: type, tracing: Tracing) -> None:
        self.tracing = tracing
        self.record_class: Any = record_class
        # Not the consumer: what lives as long as a list of records must not keep a consumer alive.
        self._subscription = consumer._subscription
        self._group = consumer.config.get("group_id")
        self._client_id = consumer.config.get("client_id")
        self._templates: dict[tuple[str, str, int], tuple[bytes, bytes]] = {}

    def is_plain(self, record: Any) -> bool:
        """Whether the record came from kafka-python just now, without a span yet."""
        return type(record) is self.record_class and record.kaspan_span is None

    def loop(self, records: RecordList) -> ListLoop:
        """Iterate over what poll() returned."""
        return ListLoop(self, records)

    def start(self, record: Any) -> RecordSpan:
        """Make the span of a record that has none, and let the record carry it.

        The parent is who sent the record; only where its headers do not say, the span in scope.
        """
        tracing = self.tracing
        headers = record.headers
        parent = tracing.propagation.extract(headers) if headers else None
        span = tracing.child_of(parent or tracing.current())
        record.kaspan_span = span
        return span

    def received(self, record: Any) -> None:
        """Record that poll() returned a record whose processing cannot be seen. Never raises."""
        try:
            self.report("poll", record, self.start(record), time_ns() // 1000, 1)
        except Exception as error:  # noqa: BLE001
            suppress("recording a polled record", error)

    def report(
        self, operation: str, record: Any, span: RecordSpan, timestamp_us: int, duration_us: int
    ) -> None:
        """End the span of a record; nothing is written for one that is not sampled."""
        span.ended = True
        if not span.sampled:
            return
        topic, partition, offset = record.topic, record.partition, record.offset
        constant, name = self._templates.get((operation, topic, partition)) or self._template(
            operation, topic, partition
        )
        tags = key_part(record.key)
        now_ms = timestamp_us // 1000
        sent_ms = record.timestamp
        if sent_ms is not None and 0 < sent_ms <= now_ms:  # not, by another clock, in the future
            tags += b',"kafka.queue_time_ms":"%d"' % (now_ms - sent_ms)
        # kafka-python's TopicPartition is a tuple, so this finds it in the dict without making one.
        assigned = self._subscription.assignment.get((topic, partition))
        highwater = None if assigned is None else assigned.highwater
        if highwater is not None and highwater > offset:
            tags += b',"kafka.lag":"%d"' % (highwater - offset - 1)
        if record.value is None:
            tags += b',"messaging.kafka.message.tombstone":"true"'
        if span.tags is not None:
            tags += b"".join([tag_part(key, value) for key, value in span.tags.items()])
        self.tracing.report(
            constant
            % (
                span.trace_id,
                span.span_id,
                parent_part(span.parent_id, span.debug),
                name if span.name is None else quote(span.name),
                timestamp_us,
                duration_us,
                b"" if span.annotations is None else annotations_part(span.annotations),
                offset,
                tags,
            )
        )

    def _template(self, operation: str, topic: str, partition: int) -> tuple[bytes, bytes]:
        tags = [
            ("kafka.topic", topic),
            ("messaging.system", "kafka"),
            ("messaging.operation.name", operation),
            ("messaging.destination.name", topic),
            ("messaging.destination.partition.id", str(partition)),
        ]
        if self._group is not None:
            tags.append(("messaging.consumer.group.name", str(self._group)))
        if self._client_id:
            tags.append(("messaging.client.id", str(self._client_id)))
        if len(self._templates) >= _MAX_TEMPLATES:
            self._templates.clear()
        tracing = self.tracing
        made = (
            span_template("CONSUMER", tracing.service, tracing.remote_service, topic, tags, _OFFSET),
            quote(f"{operation} {topic}"),
        )
        self._templates[operation, topic, partition] = made
        return made


class Cursor:
    """The one record that the application works on now, and its open span, current in its thread.

    The span ends when the cursor moves on, is closed, or goes away because the loop did.
    """

    __slots__ = (
        "__weakref__",
        "_before",
        "_during",
        "_processing",
        "_record",
        "_reported",
        "_span",
        "_started_ns",
        "_timestamp_ns",
    )

    def __init__(self, processing: Processing) -> None:
        self._processing = processing
        self._span: RecordSpan | None = None
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
            span = record.kaspan_span
            self._reported = span is not None
            if span is None:
                span = processing.start(record)
            self._before, self._during = processing.tracing.scope.enter(span)
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
            if started_ns >= tracing.born_ns and not self._reported:
                duration_us = (ended_ns - started_ns) // 1000 or 1
                processing.report("process", self._record, span, self._timestamp_ns // 1000, duration_us)
        except Exception as error:  # noqa: BLE001
            suppress("ending a record's span", error)

    def __del__(self) -> None:
        self.close()


class ConsumerLoop(Cursor):
    """What `iter(consumer)` returns: the consumer's own records, each with its span while it is worked on."""

    __slots__ = ("_consumer", "_next_record")

    def __init__(self, processing: Processing, consumer: Any, next_record: Any) -> None:
        super().__init__(processing)
        self._consumer = consumer
        self._next_record = next_record

    def __iter__(self) -> ConsumerLoop:
        return self

    def __next__(self) -> Any:
        self.close()
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
