"""CONSUMER spans: one for each delivered record, open and current while the application works on it."""

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


class ConsumerSpans:
    """The spans of one consumer: its group and client, and the templates of its partitions."""

    span_class, forwarded_class = RecordSpan, ForwardedSpan

    def __init__(self, consumer: Any, record_class: Any, tracing: Tracing) -> None:
        self.tracing = tracing
        self.reporter = tracing.reporter
        self.record_class = record_class
        self.field_positions = tuple(record_class._fields.index(name) for name in _FIELDS)
        """Where in a record what is looked at is, since that differs between versions of kafka-python."""
        self.excluded_topics = tracing.excluded_topics
        self.get_context = tracing.scope.get
        self.set_context = tracing.scope.set
        # Not the consumer: what lives as long as a list of records must not keep a consumer alive.
        self.subscription = consumer._subscription
        tags = {
            "messaging.consumer.group.name": consumer.config.get("group_id"),
            "messaging.client.id": consumer.config.get("client_id"),
        }
        self._tags = [(key, str(value)) for key, value in tags.items() if value]
        self.templates: dict[tuple[str, int], ProcessTemplates] = {}
        self._refused: dict[tuple[str, int], int] = {}
        """Partitions and offsets of the last record in each that a deserializer refused."""

    def needs_span(self, record: Any) -> bool:
        """Whether the record came from kafka-python just now, without a span yet, and should have one."""
        return (
            type(record) is self.record_class
            and record.kaspan_span is None
            and record.topic not in self.tracing.excluded_topics
        )

    def start(self, record: Any) -> tuple[RecordSpan, bool]:
        """Make the span of a record that has none, and let the record carry it.

        The parent is who sent the record; only where its headers do not say, the span in scope. Returns the
        span that the record carries, and whether it is the caller's to report: not if another thread was
        faster.
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
        carried: RecordSpan = record.__dict__.setdefault("kaspan_span", span)
        return carried, carried is span

    def forward(self, record: Any) -> ForwardedSpan | None:
        """Make what is current while a record of an excluded topic is worked on; None if nothing need be."""
        return ForwardedSpan(self.tracing.propagation.extract, record.headers) if record.headers else None

    def report_polled(self, record: Any) -> None:
        """Record that poll() returned a record whose processing cannot be seen. Never raises."""
        try:
            span, must_report = self.start(record)
            if must_report:
                self.report("poll", record, span, time_ns() // 1000, 1)
        except BaseException as error:  # noqa: BLE001 (a span that is interrupted is reported all the same)
            finish("recording a polled record", error, self._report_polled_again, record)

    def _report_polled_again(self, record: Any) -> None:
        span = record.kaspan_span or self.start(record)[0]
        if not span.ended:
            self.report("poll", record, span, time_ns() // 1000, 1)

    def fetch(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Ask kafka-python for records, and record what it fails at."""
        try:
            return original(*args, **kwargs)
        except Exception as error:
            self.report_refused(error)
            raise

    def report_refused(self, error: Exception) -> None:
        """Record that a record was not handed out since its deserializer raised, if that is what `error` is.

        kafka-python tries the same record again each time it is asked: only the first time is recorded.
        Raises nothing of its own.
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
            finally:  # the application's exception may raise when it is made text
                self.report("poll", record, span, time_ns() // 1000, 1)
        except Exception as failure:  # noqa: BLE001
            record_failure("recording a record that its deserializer refused", failure)

    def report(
        self, operation: str, record: Any, span: RecordSpan, timestamp_us: int, duration_us: int
    ) -> None:
        """End the span of a record; nothing is written for one that is not sampled."""
        if span.sampled:
            self._write(operation, record, span, timestamp_us, duration_us)
        span.ended = True

    def _write(
        self, operation: str, record: Any, span: RecordSpan, timestamp_us: int, duration_us: int
    ) -> None:
        place = (record.topic, record.partition)
        templates = self.templates.get(place) or self._templates_of(*place)
        parent_id, offset, sent_ms = span.parent_id, record.offset, record.timestamp
        # kafka-python's TopicPartition is a tuple, so this finds it in the dict without making one.
        assigned = self.subscription.assignment.get(place)
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
            self.reporter.report(
                templates.ordinary
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
