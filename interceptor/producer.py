"""KafkaProducer.send: a PRODUCER span from the call to the broker's acknowledgement."""

from __future__ import annotations

import functools
from time import perf_counter_ns, time_ns
from typing import Any

from kaspan.interceptor.failures import suppress
from kaspan.interceptor.span import RecordSpan
from kaspan.interceptor.templates import error_part, key_part, parent_part, quote, span_template
from kaspan.interceptor.tracing import Tracing

_STATE = "_kaspan"
_MAX_TEMPLATES = 10_000
_HEADERS_SINCE = (0, 11)

# Positions in send(topic, value, key, headers, partition, timestamp_ms).
_VALUE, _KEY, _HEADERS = 1, 2, 3


class ProducerState:
    """What is constant for one producer: whether its broker takes headers, and a template per topic."""

    __slots__ = ("_client_id", "_templates", "takes_headers", "tracing")

    def __init__(self, producer: Any, tracing: Tracing) -> None:
        api_version = producer.config.get("api_version")
        self.takes_headers = api_version is None or api_version >= _HEADERS_SINCE
        self.tracing = tracing
        self._client_id = producer.config.get("client_id")
        self._templates: dict[str, tuple[bytes, bytes]] = {}

    def template(self, topic: str) -> tuple[bytes, bytes]:
        """The span's constant part for this topic, and its name in JSON."""
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
            tracing = self.tracing
            constant = span_template("PRODUCER", tracing.service, tracing.remote_service, topic, tags)
            found = self._templates[topic] = (constant, quote(f"send {topic}"))
        return found

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Sending | None]:
        """Open a send's span and put its context into the arguments, into `kwargs` in place.

        Returns the positional arguments to call with, and None in the span's place if it is not sampled.
        """
        topic = args[0] if args else kwargs.get("topic")
        headers = args[_HEADERS] if len(args) > _HEADERS else kwargs.get("headers")
        if not isinstance(topic, str) or not (headers is None or isinstance(headers, list)):
            return args, None  # kafka-python refuses these, and its words are the ones the caller knows
        tracing = self.tracing
        parent = tracing.current()
        if parent is None and headers:
            parent = tracing.propagation.extract(headers)
        span = tracing.child_of(parent)
        sending = None
        if span.sampled:
            value = args[_VALUE] if len(args) > _VALUE else kwargs.get("value")
            key = args[_KEY] if len(args) > _KEY else kwargs.get("key")
            sending = Sending(tracing, self.template(topic), span, key, value is None)
        if self.takes_headers:
            new = tracing.propagation.inject(headers, span.trace_id, span.span_id, span.sampled, span.debug)
            if len(args) > _HEADERS:
                args = (*args[:_HEADERS], new, *args[_HEADERS + 1 :])
            else:
                kwargs["headers"] = new
        return args, sending


class Sending:
    """The open span of one send: its future calls it with the record's metadata, or with the error.

    When the future goes away without either, the producer gave the record up: the span ends as a timeout.
    """

    __slots__ = ("_key", "_open", "_span", "_started_ns", "_template", "_timestamp_ns", "_tombstone", "_tracing", "enqueued_ns")  # fmt: skip  # noqa: E501

    def __init__(
        self,
        tracing: Tracing,
        template: tuple[bytes, bytes],
        span: RecordSpan,
        key: object,
        tombstone: bool,
    ) -> None:
        self._tracing = tracing
        self._template = template
        self._span = span
        self._key = key
        self._tombstone = tombstone
        self._open = True
        self.enqueued_ns = 0
        """When send() returned to its caller, on the performance counter."""
        self._timestamp_ns = time_ns()
        self._started_ns = perf_counter_ns()

    def acknowledged(self, metadata: Any) -> None:
        """End the span: the broker has the record."""
        self._end(metadata, None)

    def failed(self, error: BaseException) -> None:
        """End the span as failed."""
        self._end(None, error)

    def settle(self, future: Any) -> None:
        """End the span if the future is done: before 2.2 its callbacks, unlocked, can miss that moment."""
        if future.is_done and self._open:
            self._end(future.value if future.exception is None else None, future.exception)

    def __del__(self) -> None:
        if self._open:
            self._end(None, None)

    def _end(self, metadata: Any, error: BaseException | None) -> None:
        tracing, started_ns = self._tracing, self._started_ns
        if not self._open or started_ns < tracing.born_ns:
            return
        self._open = False
        try:
            duration_us = (perf_counter_ns() - started_ns) // 1000 or 1
            constant, name = self._template
            span = self._span
            annotations = b""
            if self.enqueued_ns:
                at_us = (self._timestamp_ns + self.enqueued_ns - started_ns) // 1000
                annotations = b',"annotations":[{"timestamp":%d,"value":"kafka.enqueued"}]' % at_us
            tracing.report(
                constant
                % (
                    span.trace_id,
                    span.span_id,
                    parent_part(span.parent_id, span.debug),
                    name,
                    self._timestamp_ns // 1000,
                    duration_us,
                    annotations,
                    self._tags(metadata, error),
                )
            )
        except Exception as failure:  # noqa: BLE001
            suppress("recording a send", failure)

    def _tags(self, metadata: Any, error: BaseException | None) -> bytes:
        tags = key_part(self._key)
        if self._tombstone:
            tags += b',"messaging.kafka.message.tombstone":"true"'
        if error is not None:
            return tags + error_part(error)
        if metadata is None:
            return tags + b',"error":"timeout","error.type":"timeout"'
        tags += b',"messaging.destination.partition.id":"%d"' % metadata.partition
        if metadata.offset is not None and metadata.offset >= 0:  # -1 with acks=0
            tags += b',"messaging.kafka.offset":"%d"' % metadata.offset
        return tags


def instrument(producer_class: type, future_class: type, tracing: Tracing) -> None:
    """Patch `send` of kafka-python's KafkaProducer. Calling it again does nothing."""
    original = producer_class.send  # type: ignore[attr-defined]
    if hasattr(original, "__wrapped__"):
        return
    locked_futures = hasattr(future_class(), "_lock")
    # One lock for both callbacks instead of two, where kafka-python has a way for that.
    follow = getattr(future_class, "_add_cb_eb", None) or _follow

    @functools.wraps(original)
    def traced_send(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            state = self.__dict__.get(_STATE)
            if state is None:
                state = self.__dict__[_STATE] = ProducerState(self, tracing)
            args, sending = state.begin(args, kwargs)
        except Exception as error:  # noqa: BLE001
            suppress("tracing a send", error)
            return original(self, *args, **kwargs)
        if sending is None:
            return original(self, *args, **kwargs)
        try:
            future = original(self, *args, **kwargs)
        except BaseException as error:
            sending.failed(error)
            raise
        try:
            sending.enqueued_ns = perf_counter_ns()
            follow(future, sending.acknowledged, sending.failed)
            if not locked_futures:
                sending.settle(future)
        except Exception as error:  # noqa: BLE001
            suppress("following a send", error)
        return future

    producer_class.send = traced_send  # type: ignore[attr-defined]


def _follow(future: Any, acknowledged: Any, failed: Any) -> None:
    future.add_callback(acknowledged)
    future.add_errback(failed)
