"""KafkaProducer.send: a PRODUCER span from the call to the broker's acknowledgement."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from sys import getrefcount
from time import perf_counter_ns, time_ns
from typing import Any

from kaspan.interceptor.failures import suppress
from kaspan.interceptor.span import RecordSpan
from kaspan.interceptor.templates import (
    error_part,
    extras_parts,
    key_part,
    ordinary_template,
    parent_part,
    quote,
    span_template,
)
from kaspan.interceptor.tracing import Tracing

_STATE = "_kaspan"
_PATCHED = "_kaspan_patched"  # not `__wrapped__`, which other agents' patches have as well
_MAX_LANES = 10_000
_HEADERS_SINCE = (0, 11)
_ENQUEUED = b',"annotations":[{"timestamp":%d,"value":"kafka.enqueued"}]'
_PLACE = b',"messaging.destination.partition.id":"%d","messaging.kafka.offset":"%d"'

# Positions in send(topic, value, key, headers, partition, timestamp_ms).
_VALUE, _KEY, _HEADERS = 1, 2, 3


known_producers: weakref.WeakSet[ProducerState] = weakref.WeakSet()
"""Every producer that has sent something and still exists."""


class Lane:
    """The JSON of the spans of one topic in one producer, but for what differs each time.

    `ordinary` is for the record that nearly all are like, acknowledged with its offset: filled in at once,
    where `general`, for all others, is put together from parts.
    """

    __slots__ = ("general", "name", "ordinary")

    def __init__(self, tracing: Tracing, topic: str, client_id: str | None) -> None:
        tags = [
            ("kafka.topic", topic),
            ("messaging.system", "kafka"),
            ("messaging.operation.name", "send"),
            ("messaging.destination.name", topic),
        ]
        if client_id:
            tags.append(("messaging.client.id", str(client_id)))
        self.name = quote(f"send {topic}")
        self.general = span_template(
            "PRODUCER", tracing.service, tracing.remote_service, topic, tags, varying=b"%b"
        )
        self.ordinary = ordinary_template(self.general, b"%b", self.name, _ENQUEUED, _PLACE)


class ProducerState:
    """What is constant for one producer: whether its broker takes headers, and a lane per topic."""

    __slots__ = (
        "__weakref__",
        "_client_id",
        "_get_context",
        "_is_ordinary",
        "_lanes",
        "is_answered",
        "takes_headers",
        "tracing",
    )

    def __init__(self, producer: Any, tracing: Tracing) -> None:
        api_version = producer.config.get("api_version")
        self.takes_headers = api_version is None or api_version >= _HEADERS_SINCE
        self.is_answered = producer.config.get("acks") != 0
        """Whether a send's future is done by the broker's answer, which has the record's offset."""
        self.tracing = tracing
        self._get_context = tracing.scope.get
        self._is_ordinary = self.takes_headers and tracing.propagation.only_b3
        self._client_id = producer.config.get("client_id")
        self._lanes: dict[str, Lane] = {}
        known_producers.add(self)
        if tracing.at_client is not None:
            tracing.at_client()

    def has_open_sends(self) -> bool:
        """Whether spans of its sends are open: each holds its lane, so it shows in the references."""
        return _most_references(self._lanes) > _most_references({"": object()})

    def _lane(self, topic: str) -> Lane:
        if len(self._lanes) >= _MAX_LANES:
            self._lanes.clear()
        made = self._lanes[topic] = Lane(self.tracing, topic, self._client_id)
        return made

    def begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], Sending | None, bool]:
        """Open a send's span and put its context into the arguments, into `kwargs` in place.

        Returns the positional arguments to call with, None in the span's place if it is not sampled, and
        whether the headers are a list of ours.
        """
        given = len(args)
        topic = args[0] if given else kwargs.get("topic")
        headers = args[_HEADERS] if given > _HEADERS else kwargs.get("headers")
        if not isinstance(topic, str) or not (headers is None or isinstance(headers, list)):
            return args, None, False  # kafka-python refuses these, in words that the caller knows
        tracing = self.tracing
        parent = tracing.current() if self._get_context() else None
        if tracing.excluded.known.get(topic) is not False and topic in tracing.excluded:
            if parent is None:
                return args, None, False
            return self._inject(args, kwargs, headers, RecordSpan.of(parent)), None, self.takes_headers
        if parent is None and headers:
            parent = tracing.propagation.extract(headers)
        span = tracing.child_of(parent, "send", topic)
        sending = None
        if span.sampled:
            if tracing.captured is not None and headers:
                span.set_attributes(dict(tracing.captured.tags(headers)))
            value = args[_VALUE] if given > _VALUE else kwargs.get("value")
            key = args[_KEY] if given > _KEY else kwargs.get("key")
            lane = self._lanes.get(topic) or self._lane(topic)
            sending = Sending(tracing, lane, span, key, value is None)
            if self._is_ordinary and headers is None and given <= _HEADERS and span.extras is None:
                # What _inject does for nearly everybody, without three calls.
                kwargs["headers"] = [("b3", b"%b-%b-1" % (span.trace_id, span.span_id))]
                return args, sending, True
        return self._inject(args, kwargs, headers, span), sending, self.takes_headers

    def strip(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the context out of the headers again, which are a list of ours."""
        headers = args[_HEADERS] if len(args) > _HEADERS else kwargs["headers"]
        headers[:] = self.tracing.propagation.without(headers)

    def _inject(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], headers: Any, span: RecordSpan
    ) -> tuple[Any, ...]:
        if self.takes_headers:
            if self.tracing.propagation.writes_state:
                span.headers = headers
                span.carry_state(self.tracing.scope.current_span())
            new = self.tracing.propagation.inject(headers, span)
            if len(args) <= _HEADERS:
                kwargs["headers"] = new
            else:
                args = (*args[:_HEADERS], new, *args[_HEADERS + 1 :])
        return args


def _most_references(held: Mapping[str, object]) -> int:
    return max((getrefcount(one) for one in held.values()), default=0)


class Sending:
    """The open span of one send: its future calls it with the record's metadata, or with the error.

    When the future goes away without either, the producer gave the record up: the span ends as a timeout.
    """

    __slots__ = (
        "_key",
        "_lane",
        "_span",
        "_started_ns",
        "_timestamp_ns",
        "_tombstone",
        "_tracing",
        "enqueued_ns",
    )

    def __init__(self, tracing: Tracing, lane: Lane, span: RecordSpan, key: object, tombstone: bool) -> None:
        self._tracing = tracing
        self._lane = lane
        self._span: RecordSpan | None = span
        self._key = key
        self._tombstone = tombstone
        self.enqueued_ns = 0
        """When send() returned to its caller, on the performance counter."""
        self._timestamp_ns = time_ns()
        self._started_ns = perf_counter_ns()

    def acknowledged(self, metadata: Any) -> None:
        """End the span: the broker has the record."""
        ended_ns = perf_counter_ns()
        span = self._span
        try:
            offset = metadata.offset
            tracing, started_ns, timestamp_ns = self._tracing, self._started_ns, self._timestamp_ns
            if (
                span is None
                or self._tombstone
                or span.extras is not None
                or offset is None
                or offset < 0  # with acks=0
                or started_ns < tracing.born_ns
            ):
                self._end(metadata, None)
                return
            self._span = None
            lane = self._lane
            del self._lane  # what holds its lane is open, see has_open_sends
            parent_id = span.parent_id
            tracing.report(
                lane.ordinary
                % (
                    span.trace_id,
                    span.span_id,
                    b"" if parent_id is None else b',"parentId":"' + parent_id + b'"',
                    timestamp_ns // 1000,
                    (ended_ns - started_ns) // 1000 or 1,
                    (timestamp_ns + self.enqueued_ns - started_ns) // 1000,
                    key_part(self._key),
                    metadata.partition,
                    offset,
                )
            )
        except Exception as failure:  # noqa: BLE001
            suppress("recording a send", failure)

    def written(self, metadata: Any) -> None:
        """End the span: the record went out with acks=0; kafka-python 3.0 calls its offset 0."""
        self._end(metadata._replace(offset=-1), None)

    def failed(self, error: BaseException) -> None:
        """End the span as failed."""
        self._end(None, error)

    def settle(self, future: Any) -> None:
        """End the span if the future is done: before 2.2 its callbacks, unlocked, can miss that moment."""
        if future.is_done and self._span is not None:
            self._end(future.value if future.exception is None else None, future.exception)

    def give_up(self) -> None:
        """End the span, if it is open, as that of a send to which no answer will come."""
        if self._span is not None:
            self._end(None, None)

    __del__ = give_up

    def _end(self, metadata: Any, error: BaseException | None) -> None:
        """Report the span whatever became of the record; None and None when nobody knows."""
        span, started_ns = self._span, self._started_ns
        if span is None or started_ns < self._tracing.born_ns:
            return
        self._span = None
        try:
            lane = self._lane
            del self._lane
            duration_us = (perf_counter_ns() - started_ns) // 1000 or 1
            annotations = b""
            if self.enqueued_ns:
                annotations = _ENQUEUED % ((self._timestamp_ns + self.enqueued_ns - started_ns) // 1000)
            self._tracing.report(
                lane.general
                % (
                    span.trace_id,
                    span.span_id,
                    parent_part(span.parent_id, span.debug),
                    lane.name,
                    self._timestamp_ns // 1000,
                    duration_us,
                    annotations,
                    key_part(self._key),
                    self._outcome(span, metadata, error),
                )
            )
        except Exception as failure:  # noqa: BLE001
            suppress("recording a send", failure)

    def _outcome(self, span: RecordSpan, metadata: Any, error: BaseException | None) -> bytes:
        tags = extras_parts(span.extras)[2]
        if self._tombstone:
            tags += b',"messaging.kafka.message.tombstone":"true"'
        if error is not None:
            return tags + error_part(error)
        if metadata is None:
            return tags + b',"error":"timeout","error.type":"timeout"'
        if metadata.offset is not None and metadata.offset >= 0:
            return tags + _PLACE % (metadata.partition, metadata.offset)
        return tags + b',"messaging.destination.partition.id":"%d"' % metadata.partition


def instrument(producer_class: type, future_class: type, tracing: Tracing) -> None:
    """Patch `send` of kafka-python's KafkaProducer. Calling it again does nothing."""
    original = producer_class.send  # type: ignore[attr-defined]
    if hasattr(original, _PATCHED):
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
            args, sending, injected = state.begin(args, kwargs)
        except Exception as error:  # noqa: BLE001
            suppress("tracing a send", error)
            return original(self, *args, **kwargs)
        too_large = False
        try:
            future = original(self, *args, **kwargs)
        except BaseException as error:
            too_large = injected and type(error).__name__ == "MessageSizeTooLargeError"
            if not too_large:
                if sending is not None:
                    sending.failed(error)
                raise
        if too_large:
            # Perhaps it is only so by our header: without it, kafka-python has the last word.
            state.strip(args, kwargs)
            try:
                future = original(self, *args, **kwargs)
            except BaseException as error:
                if sending is not None:
                    sending.failed(error)
                raise
        if sending is None:
            return future
        try:
            sending.enqueued_ns = perf_counter_ns()
            follow(future, sending.acknowledged if state.is_answered else sending.written, sending.failed)
            if not locked_futures:
                sending.settle(future)
        except Exception as error:  # noqa: BLE001
            suppress("following a send", error)
        return future

    setattr(traced_send, _PATCHED, True)
    producer_class.send = traced_send  # type: ignore[attr-defined]


def _follow(future: Any, acknowledged: Any, failed: Any) -> None:
    future.add_callback(acknowledged)
    future.add_errback(failed)
