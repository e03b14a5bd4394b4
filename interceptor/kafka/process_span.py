"""CONSUMER spans: one for each record, open and current while the application works on it."""

from __future__ import annotations

from collections.abc import Callable
from time import time_ns
from typing import Any

from kaspan.interceptor.failures import finish, record_failure
from kaspan.interceptor.kafka.refused_record import refused_record
from kaspan.interceptor.tracing.span import ForwardedSpan, RecordSpan
from kaspan.interceptor.tracing.tracing import Tracing
from kaspan.interceptor.tracing.zipkin_json import (
    Tags,
    extras_parts,
    key_part,
    ordinary_template,
    parent_part,
    quote,
    span_template,
)

_MAX_TOPICS = 10_000
_FIELDS = ("topic", "partition", "offset", "timestamp", "key", "value", "headers")
_PARENT = b',"parentId":"%b"'
_OFFSET_AND_KEY = b',"messaging.kafka.offset":"%d"%b'
_TIMES = b',"kafka.queue_time_ms":"%d","kafka.lag":"%d"'


class ProcessTemplates:
    """Templates of the JSON of the spans of one topic and partition in one consumer.

    `ordinary` is for most records: those with a parent, a timestamp and a known lag, to whose span the
    application adds nothing. `general`, for all others, is filled in from parts, which takes twice as long.
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


class ConsumerSpans:
    """The spans of one consumer: its group and client, and the templates of its partitions."""

    span_class, forwarded_class = RecordSpan, ForwardedSpan

    def __init__(self, consumer: Any, record_class: Any, tracing: Tracing) -> None:
        self.tracing = tracing
        self.reporter = tracing.reporter
        self.record_class = record_class
        self.field_positions = tuple(record_class._fields.index(name) for name in _FIELDS)
        """The positions of _FIELDS in a record: they differ between versions of kafka-python."""
        self.excluded_topics = tracing.excluded_topics
        # Not the consumer: a list of records refers to this, and must not keep the consumer alive.
        self.subscription = consumer._subscription
        tags = {
            "messaging.consumer.group.name": consumer.config.get("group_id"),
            "messaging.client.id": consumer.config.get("client_id"),
        }
        self._tags = [(key, str(value)) for key, value in tags.items() if value]
        self.templates: dict[tuple[str, int], ProcessTemplates] = {}
        self._refused: dict[tuple[str, int], int] = {}
        """By partition: the offset of the last record that a deserializer refused."""

    def needs_span(self, record: Any) -> bool:
        """Whether this is a record of kafka-python, of a traced topic, that has no span yet."""
        return (
            type(record) is self.record_class
            and record.kaspan_span is None
            and record.topic not in self.tracing.excluded_topics
        )

    def start(self, record: Any) -> tuple[RecordSpan, bool]:
        """Make the span of a record and attach it to the record.

        The parent is the sender's span; without one in the headers, the current span. Returns the record's
        span, and whether the caller must report it: not if another thread has attached one first.
        """
        tracing = self.tracing
        headers = record.headers
        parent = tracing.propagation.extract(headers) if headers else None
        span = tracing.child_of(parent or tracing.current(ignoring=self), "receive", record.topic)
        span.consumer, span.topic = self, record.topic
        if tracing.captured_headers is not None and headers and span.sampled:
            span.set_attributes(dict(tracing.captured_headers.tags(headers)))
        if parent is not None and len(headers) > 1:
            span.headers = headers
        attached: RecordSpan = record.__dict__.setdefault("kaspan_span", span)
        return attached, attached is span

    def report_polled(self, record: Any) -> None:
        """Report a record that poll() returned and that no loop works on. Never raises."""
        try:
            span, must_report = self.start(record)
            if must_report:
                self.reporter.polled.left()
                self.report("poll", record, span, time_ns() // 1000, 1)
        except BaseException as error:  # noqa: BLE001 (an interrupted step is repeated)
            finish("recording a polled record", error, self._report_polled_again, record)

    def _report_polled_again(self, record: Any) -> None:
        span = record.kaspan_span or self.start(record)[0]
        if not span.ended:
            self.report("poll", record, span, time_ns() // 1000, 1)

    def count_polled(self, topic: str, records: int) -> None:
        """Count records that poll() returned, if they have spans."""
        if topic not in self.excluded_topics:
            self.reporter.polled.returned(records)

    def report_copied(self, records: int) -> None:
        """Count records of a list that a loop has only copied."""
        self.reporter.polled.left(records)

    def fetch(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of kafka-python that returns records, and report a record that it refuses."""
        try:
            return original(*args, **kwargs)
        except Exception as error:
            self.report_refused(error)
            raise

    def report_refused(self, error: Exception) -> None:
        """Report the record that a deserializer refused, if `error` came from one. Never raises.

        kafka-python tries the same record at each call; only the first time is reported.
        """
        try:
            record = refused_record(error, self.record_class)
            if record is None or record.topic in self.excluded_topics:
                return
            place = (record.topic, record.partition)
            if self._refused.get(place) == record.offset:
                return
            if len(self._refused) >= _MAX_TOPICS:
                self._refused.clear()
            self._refused[place] = record.offset
            span, _ = self.start(record)
            try:
                span.fail(error)
            finally:  # str(error) of an application's exception may raise
                self.report("poll", record, span, time_ns() // 1000, 1)
        except Exception as failure:  # noqa: BLE001
            record_failure("recording a record that its deserializer refused", failure)

    def report(
        self, operation: str, record: Any, span: RecordSpan, timestamp_us: int, duration_us: int
    ) -> None:
        """End the span of a record, and write it if it is sampled."""
        if span.sampled:
            self._write(operation, record, span, timestamp_us, duration_us)
        span.ended = True

    def _write(
        self, operation: str, record: Any, span: RecordSpan, timestamp_us: int, duration_us: int
    ) -> None:
        place = (record.topic, record.partition)
        templates = self.templates.get(place) or self._templates_of(*place)
        parent_id, offset, sent_ms = span.parent_id, record.offset, record.timestamp
        assigned = self.subscription.assignment.get(place)
        highwater = None if assigned is None else assigned.highwater
        lag = -1 if highwater is None else highwater - offset - 1
        # Unknown without a timestamp, or if the sender's clock is ahead.
        queued_ms = timestamp_us // 1000 - sent_ms if sent_ms is not None and sent_ms > 0 else -1
        tags = b""
        if queued_ms >= 0:
            tags += b',"kafka.queue_time_ms":"%d"' % queued_ms
        if lag >= 0:
            tags += b',"kafka.lag":"%d"' % lag
        if record.value is None:
            tags += b',"messaging.kafka.message.tombstone":"true"'
        name, annotations, added = extras_parts(span.extras)
        self.reporter.report(
            templates.general[operation]
            % (
                span.trace_id,
                span.span_id,
                parent_part(parent_id, span.debug),
                name or templates.names[operation],
                timestamp_us,
                duration_us,
                annotations,
                offset,
                key_part(record.key),
                tags + added,
            )
        )

    def _templates_of(self, topic: str, partition: int) -> ProcessTemplates:
        if len(self.templates) >= _MAX_TOPICS:
            self.templates.clear()
        made = self.templates[topic, partition] = ProcessTemplates(self.tracing, topic, partition, self._tags)
        return made
