"""KafkaProducer.send: a PRODUCER span from the call to the broker's acknowledgement."""

from __future__ import annotations

import functools
import time
from typing import Any

from kaspan.interceptor.failures import suppress
from kaspan.interceptor.span import RecordSpan
from kaspan.interceptor.templates import (
    SpanTemplate,
    error_part,
    key_part,
    parent_part,
)
from kaspan.interceptor.tracing import Tracing

_STATE = "_kaspan"
_MAX_TEMPLATES = 10_000
_HEADERS_SINCE = (0, 11)
_HEADERS = 3  # position in send(topic, value, key, headers, partition, timestamp_ms)
_KEY = 2
_VALUE = 1


class ProducerState:
    """What is constant for one producer: whether its broker takes headers, and a template per topic."""

    __slots__ = ("_client_id", "_templates", "_tracing", "takes_headers")

    def __init__(self, producer: Any, tracing: Tracing) -> None:
        api_version = producer.config.get("api_version")
        self.takes_headers = api_version is None or api_version >= _HEADERS_SINCE
        self._client_id = producer.config.get("client_id")
        self._tracing = tracing
        self._templates: dict[str, SpanTemplate] = {}

    def template(self, topic: str) -> SpanTemplate:
        """The span's constant part for this topic."""
        found = self._templates.get(topic)
        if found is None:
            if len(self._templates) >= _MAX_TEMPLATES:
                self._templates.clear()
            tags = [
                ("kafka.topic", topic),
                ("messaging.system", "kafka"),
                ("messaging.operation.name", "send"),
                ("messaging.destination.name", topic),
            ]
            if self._client_id:
                tags.append(("messaging.client.id", str(self._client_id)))
            found = self._templates[topic] = SpanTemplate(
                "PRODUCER", f"send {topic}", self._tracing.service, self._tracing.remote_service, topic, tags
            )
        return found


class Sending:
    """The open span of one send: called by the future with the record's metadata, or by its errback.

    When the future goes away without either, the producer gave the record up: the span ends as a timeout.
    """

    __slots__ = (
        "_enqueued_us",
        "_key",
        "_span",
        "_started_ns",
        "_template",
        "_timestamp_us",
        "_tombstone",
        "_tracing",
    )

    def __init__(
        self, tracing: Tracing, template: SpanTemplate, span: RecordSpan, key: object, tombstone: bool
    ) -> None:
        self._tracing = tracing
        self._template = template
        self._span: RecordSpan | None = span
        self._key = key
        self._tombstone = tombstone
        self._enqueued_us = 0
        self._timestamp_us = time.time_ns() // 1000
        self._started_ns = time.perf_counter_ns()

    def enqueued(self) -> None:
        """Note that send() returns to its caller now."""
        self._enqueued_us = self._timestamp_us + (time.perf_counter_ns() - self._started_ns) // 1000

    def acknowledged(self, metadata: Any) -> None:
        """End the span: the broker has the record."""
        self._end(metadata, None)

    def failed(self, error: BaseException) -> None:
        """End the span as failed."""
        self._end(None, error)

    def settle(self, future: Any) -> None:
        """End the span if the future is done: before 2.2 its callbacks, unlocked, can miss that moment."""
        if future.is_done and self._span is not None:
            self._end(future.value if future.exception is None else None, future.exception)

    def __del__(self) -> None:
        if self._span is not None:
            self._end(None, None)

    def _end(self, metadata: Any, error: BaseException | None) -> None:
        span, self._span = self._span, None
        if span is None or not self._tracing.is_mine(self._started_ns):
            return
        try:
            duration_us = (time.perf_counter_ns() - self._started_ns) // 1000 or 1
            at_us = self._enqueued_us
            self._tracing.report(
                self._template.fields
                % (
                    span.trace_id,
                    span.span_id,
                    parent_part(span.parent_id, span.debug),
                    self._template.name,
                    self._timestamp_us,
                    duration_us,
                    f',"annotations":[{{"timestamp":{at_us},"value":"kafka.enqueued"}}]' if at_us else "",
                    self._outcome(metadata, error),
                )
            )
        except Exception as failure:  # noqa: BLE001
            suppress("recording a send", failure)

    def _outcome(self, metadata: Any, error: BaseException | None) -> str:
        tags = key_part(self._key)
        if self._tombstone:
            tags += ',"messaging.kafka.message.tombstone":"true"'
        if error is not None:
            return tags + error_part(error)
        if metadata is None:
            return tags + ',"error":"timeout","error.type":"timeout"'
        tags += f',"messaging.destination.partition.id":"{metadata.partition}"'
        if metadata.offset is not None and metadata.offset >= 0:  # -1 with acks=0
            tags += f',"messaging.kafka.offset":"{metadata.offset}"'
        return tags


def _begin(
    tracing: Tracing, producer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], Sending | None]:
    """Put the new span's context into the arguments (`kwargs` in place); open the span, if sampled."""
    topic = args[0] if args else kwargs.get("topic")
    headers = args[_HEADERS] if len(args) > _HEADERS else kwargs.get("headers")
    if not isinstance(topic, str) or not (headers is None or isinstance(headers, list)):
        return args, None  # kafka-python refuses these, and its words are the ones the caller knows
    state: ProducerState | None = producer.__dict__.get(_STATE)
    if state is None:
        state = producer.__dict__[_STATE] = ProducerState(producer, tracing)
    parent = tracing.from_current(tracing.scope.current_span())
    if parent is None and headers:
        parent = tracing.propagation.extract(headers)
    span = tracing.child_of(parent)
    if state.takes_headers:
        new = tracing.propagation.inject(headers, span.trace_id, span.span_id, span.sampled, span.debug)
        if len(args) > _HEADERS:
            args = (*args[:_HEADERS], new, *args[_HEADERS + 1 :])
        else:
            kwargs["headers"] = new
    if not span.sampled:
        return args, None
    value = args[_VALUE] if len(args) > _VALUE else kwargs.get("value")
    key = args[_KEY] if len(args) > _KEY else kwargs.get("key")
    return args, Sending(tracing, state.template(topic), span, key, value is None)


def instrument(producer_class: type, tracing: Tracing) -> None:
    """Patch `send` of kafka-python's KafkaProducer. Calling it again does nothing."""
    original = producer_class.send  # type: ignore[attr-defined]
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def traced_send(self: Any, *args: Any, **kwargs: Any) -> Any:
        sending = None
        call_args, call_kwargs = args, dict(kwargs)
        try:
            call_args, sending = _begin(tracing, self, args, call_kwargs)
        except Exception as error:  # noqa: BLE001
            suppress("tracing a send", error)
            call_args, call_kwargs = args, kwargs
        if sending is None:
            return original(self, *call_args, **call_kwargs)
        try:
            future = original(self, *call_args, **call_kwargs)
        except BaseException as error:
            sending.failed(error)
            raise
        try:
            sending.enqueued()
            future.add_callback(sending.acknowledged)
            future.add_errback(sending.failed)
            sending.settle(future)
        except Exception as error:  # noqa: BLE001
            suppress("following a send", error)
        return future

    producer_class.send = traced_send  # type: ignore[attr-defined]
