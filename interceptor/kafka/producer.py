"""KafkaProducer.send: a PRODUCER span from the call to the broker's acknowledgement."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from sys import getrefcount
from typing import Any

from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.kafka import send_span as python_send_span
from kaspan.interceptor.kafka.open_sends import remember
from kaspan.interceptor.kafka.send_templates import SendTemplates
from kaspan.interceptor.tracing.span import RecordSpan
from kaspan.interceptor.tracing.tracing import Tracing

SendSpan = accelerated(python_send_span.SendSpan)
OrdinarySends, Sends = accelerated(python_send_span.OrdinarySends), accelerated(python_send_span.Sends)

_STATE = "_kaspan"
_PATCHED = "_kaspan_patched"  # not `__wrapped__`: patches of other agents have that too
_MAX_TOPICS = 10_000
_HEADERS_SINCE = (0, 11)

# Positions in send(topic, value, key, headers, partition, timestamp_ms).
_VALUE, _KEY, _HEADERS = 1, 2, 3


class ProducerState:
    """What is constant for one producer: whether its broker supports headers, and each topic's templates."""

    __slots__ = (
        "__weakref__",
        "_client_id",
        "_get_context",
        "_is_acknowledged",
        "_templates",
        "_templates_without_context",
        "ordinary",
        "supports_headers",
        "tracing",
    )

    def __init__(self, producer: Any, tracing: Tracing) -> None:
        api_version = producer.config.get("api_version")
        self.supports_headers = api_version is None or api_version >= _HEADERS_SINCE
        self._is_acknowledged = producer.config.get("acks") != 0
        self.tracing = tracing
        self._get_context = tracing.scope.get
        self._client_id = producer.config.get("client_id")
        self._templates: dict[str, SendTemplates] = {}
        self._templates_without_context: dict[str, SendTemplates] = {}
        """Of topics whose records get no context. OrdinarySends does not know these."""
        injects_only_b3 = self.supports_headers and tracing.propagation.only_b3
        self.ordinary = OrdinarySends(tracing, self._templates) if injects_only_b3 else None
        """Does what `begin` does, for ordinary sends: see send_span. None if more than b3 is injected."""
        remember(self)
        if tracing.on_client is not None:
            tracing.on_client()

    def has_open_sends(self) -> bool:
        """Whether spans of its sends are open. Each refers to its templates, so reference counts tell."""
        by_topic = (self._templates, self._templates_without_context)
        # Only its dict, and what counts, refer to this object.
        without_sends = _most_references({"": object()})
        return max(map(_most_references, by_topic)) > without_sends

    def _injects_into(self, topic: str) -> bool:
        return self.supports_headers and topic not in self.tracing.propagation.excluded_topics

    def _templates_of(self, topic: str) -> SendTemplates:
        by_topic = self._templates if self._injects_into(topic) else self._templates_without_context
        templates = by_topic.get(topic)
        if templates is None:
            if len(by_topic) >= _MAX_TOPICS:
                by_topic.clear()
            templates = SendTemplates(self.tracing, topic, self._client_id, self._is_acknowledged)
            templates.injects_context = by_topic is self._templates
            by_topic[topic] = templates
        return templates

    def begin(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], python_send_span.SendSpan | None, bool]:
        """Open a send's span and inject its context into the arguments; changes `kwargs` in place.

        Returns the positional arguments to call with, the span or None if it is not sampled, and whether the
        headers are a list that this has made.
        """
        positional = len(args)
        topic = args[0] if positional else kwargs.get("topic")
        headers = args[_HEADERS] if positional > _HEADERS else kwargs.get("headers")
        if not isinstance(topic, str) or not (headers is None or isinstance(headers, list)):
            return args, None, False  # kafka-python raises its own error
        tracing = self.tracing
        parent = tracing.current() if self._get_context() else None
        if tracing.excluded_topics.known.get(topic) is not False and topic in tracing.excluded_topics:
            if parent is None or not self._injects_into(topic):
                return args, None, False
            # It gets no span, but the trace goes on through it: the reader of the record continues `parent`.
            return self._inject(args, kwargs, headers, RecordSpan.of(parent)), None, True
        if parent is None and headers:
            parent = tracing.propagation.extract(headers)
        templates = self._templates.get(topic) or self._templates_of(topic)
        span = tracing.child_of(parent, "send", topic)
        send_span = None
        if span.sampled:
            if tracing.captured_headers is not None and headers:
                span.set_attributes(dict(tracing.captured_headers.tags(headers)))
            value = args[_VALUE] if positional > _VALUE else kwargs.get("value")
            key = args[_KEY] if positional > _KEY else kwargs.get("key")
            send_span = SendSpan(
                templates, span.trace_id, span.span_id, span.parent_id, span.extras, key, value is None
            )
        if not templates.injects_context:
            return args, send_span, False
        return self._inject(args, kwargs, headers, span), send_span, True

    def send_without_context(
        self,
        send: Any,
        producer: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        send_span: python_send_span.SendSpan | None,
    ) -> Any:
        """Call `send` again without the context in the headers, a list that `begin` has made."""
        headers = args[_HEADERS] if len(args) > _HEADERS else kwargs["headers"]
        headers[:] = self.tracing.propagation.without_context(headers)
        try:
            return send(producer, *args, **kwargs)
        except BaseException as error:
            if send_span is not None:
                send_span(error)
            raise

    def _inject(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], headers: Any, span: RecordSpan
    ) -> tuple[Any, ...]:
        if self.tracing.propagation.writes_state:
            span.headers = headers
            span.carry_state(self.tracing.scope.current_span())
        new = self.tracing.propagation.inject(headers, span)
        if len(args) > _HEADERS:
            return (*args[:_HEADERS], new, *args[_HEADERS + 1 :])
        kwargs["headers"] = new
        return args


def _most_references(held: Mapping[str, object]) -> int:
    # Of a copy: other threads may send to new topics meanwhile.
    return max((getrefcount(one) for one in list(held.values())), default=0)


def instrument(producer_class: type, future_class: type, tracing: Tracing) -> None:
    """Patch `send` of kafka-python's KafkaProducer. Calling it again does nothing."""
    original = producer_class.send  # type: ignore[attr-defined]
    if getattr(original, _PATCHED, None) is True:  # a mock has every attribute
        return
    locked_futures = hasattr(future_class(), "_lock")
    # Takes the future's lock once for both callbacks, in versions that have this method.
    follow = getattr(future_class, "_add_cb_eb", None) or _follow_both(future_class)

    def make_state(producer: Any) -> ProducerState:
        state = ProducerState(producer, tracing)
        object.__setattr__(producer, _STATE, state)
        return state

    send = Sends(ProducerState, make_state, original, follow, not locked_futures).send

    @functools.wraps(original)
    def traced_send(self: Any, *args: Any, **kwargs: Any) -> Any:
        return send(self, args, kwargs)

    setattr(traced_send, _PATCHED, True)
    producer_class._kaspan = None  # type: ignore[attr-defined]  # so that a subclass's __getattr__ is not called
    producer_class.send = traced_send  # type: ignore[attr-defined]


def _follow_both(future_class: Any) -> Any:
    add_callback, add_errback = future_class.add_callback, future_class.add_errback

    def follow(future: Any, acknowledged: Any, failed: Any) -> None:
        add_callback(future, acknowledged)
        add_errback(future, failed)

    return follow
