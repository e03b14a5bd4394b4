"""CONSUMER spans: one for each delivered record, open and current while the application works on it."""

from __future__ import annotations

import time
from json.encoder import encode_basestring_ascii as quote
from typing import Any

from kaspan.interceptor.failures import suppress
from kaspan.interceptor.records import RecordList, traced_record
from kaspan.interceptor.span import RecordSpan
from kaspan.interceptor.templates import (
    SpanTemplate,
    annotations_part,
    key_part,
    parent_part,
    tag_part,
)
from kaspan.interceptor.tracing import Tracing

_MAX_TEMPLATES = 10_000


class Processing:
    """The spans of one consumer: its group and client, and a template per operation, topic and partition."""

    def __init__(self, consumer: Any, record_class: type, tracing: Tracing) -> None:
        self.tracing = tracing
        self._record_class = record_class
        self._traced_class: Any = traced_record(record_class)
        # Not the consumer: what lives as long as a list of records must not keep a consumer alive.
        self._subscription = consumer._subscription
        self._group = consumer.config.get("group_id")
        self._client_id = consumer.config.get("client_id")
        self._templates: dict[tuple[str, str, int], SpanTemplate] = {}

    def is_plain(self, record: Any) -> bool:
        """Whether the record came from kafka-python as it is, without a span yet."""
        return type(record) is self._record_class

    def loop(self, records: RecordList) -> ListLoop:
        """Iterate over what poll() returned."""
        return ListLoop(self, records)

    def start(self, record: Any) -> tuple[Any, RecordSpan]:
        """Make the span of a plain record and the record that carries it."""
        tracing = self.tracing
        parent = tracing.propagation.extract(record.headers) if record.headers else None
        if parent is None:
            parent = tracing.from_current(tracing.scope.current_span())
        span = tracing.child_of(parent)
        traced = tuple.__new__(self._traced_class, record)
        traced.kaspan_span = span
        return traced, span

    def received(self, record: Any) -> Any:
        """Record that poll() returned a record whose processing cannot be seen; returns it with its span.

        Never raises; where something fails, the plain record is returned.
        """
        try:
            traced, span = self.start(record)
            self.report("poll", traced, span, time.time_ns() // 1000, 1)
        except Exception as error:  # noqa: BLE001
            suppress("recording a polled record", error)
            return record
        return traced

    def report(
        self, operation: str, record: Any, span: RecordSpan, timestamp_us: int, duration_us: int
    ) -> None:
        """End a span; nothing is written for one that is not sampled."""
        span.ended = True
        if not span.sampled:
            return
        template = self._template(operation, record.topic, record.partition)
        self.tracing.report(
            template.fields
            % (
                span.trace_id,
                span.span_id,
                parent_part(span.parent_id, span.debug),
                template.name if span.name is None else quote(span.name),
                timestamp_us,
                duration_us,
                annotations_part(span.annotations) if span.annotations else "",
                self._tags(record, span, timestamp_us),
            )
        )

    def _tags(self, record: Any, span: RecordSpan, timestamp_us: int) -> str:
        offset = record.offset
        tags = f',"messaging.kafka.offset":"{offset}"{key_part(record.key)}'
        queued_ms = timestamp_us // 1000 - (record.timestamp or -1)
        if 0 <= queued_ms <= timestamp_us // 1000:  # neither from the future nor without a timestamp
            tags += f',"kafka.queue_time_ms":"{queued_ms}"'
        # kafka-python's TopicPartition is a tuple, so this finds it in the dict without making one.
        partition = self._subscription.assignment.get((record.topic, record.partition))
        highwater = None if partition is None else partition.highwater
        if highwater is not None and highwater > offset:
            tags += f',"kafka.lag":"{highwater - offset - 1}"'
        if record.value is None:
            tags += ',"messaging.kafka.message.tombstone":"true"'
        if span.tags:
            tags += "".join([tag_part(key, value) for key, value in span.tags.items()])
        return tags

    def _template(self, operation: str, topic: str, partition: int) -> SpanTemplate:
        key = (operation, topic, partition)
        found = self._templates.get(key)
        if found is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
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
            tracing = self.tracing
            found = self._templates[key] = SpanTemplate(
                "CONSUMER", f"{operation} {topic}", tracing.service, tracing.remote_service, topic, tags
            )
        return found


class Cursor:
    """The one record that the application works on now, and its open span, current in its thread.

    The span ends when the cursor moves on, is closed, or goes away because the loop did.
    """

    __slots__ = ("__weakref__", "_entered", "_processing", "_record", "_span", "_started_ns", "_timestamp_us")

    def __init__(self, processing: Processing) -> None:
        self._processing = processing
        self._span: RecordSpan | None = None

    def open(self, record: Any) -> Any:
        """Make the record's span current and return the record that carries it. Never raises.

        A record that has a span already, because it was looked at before, gets no second one: the one it
        has becomes current again.
        """
        processing = self._processing
        try:
            span = None
            if processing.is_plain(record):
                record, span = processing.start(record)
                self._record = record
            elif getattr(record, "kaspan_span", None) is not None:
                span = record.kaspan_span
                self._record = None
            if span is not None:
                self._entered = processing.tracing.scope.enter(span)
                self._timestamp_us = time.time_ns() // 1000
                self._started_ns = time.perf_counter_ns()
                self._span = span
        except Exception as error:  # noqa: BLE001
            suppress("starting a record's span", error)
        return record

    def close(self) -> None:
        """End the open span, if there is one. Never raises."""
        span, self._span = self._span, None
        if span is None:
            return
        try:
            processing = self._processing
            duration_us = (time.perf_counter_ns() - self._started_ns) // 1000 or 1
            processing.tracing.scope.leave(self._entered, span)
            if self._record is not None and processing.tracing.is_mine(self._started_ns):
                record, self._record = self._record, None
                processing.report("process", record, span, self._timestamp_us, duration_us)
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
            plain = list.__getitem__(self._records, index)
        except IndexError:
            self._index = len(self._records)
            raise StopIteration from None
        self._index = index + 1
        record = self.open(plain)
        if record is not plain:
            self._records.keep(index, record)
        return record

    def __length_hint__(self) -> int:
        return max(0, len(self._records) - self._index)
