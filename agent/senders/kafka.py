"""Sends to a Kafka topic that Zipkin's Kafka collector reads: each message is a JSON list of spans.

Kafka acknowledges a message whatever is in it, and Zipkin drops a whole message that it cannot read. So this
sender checks spans by Zipkin's rules itself.

Source: KafkaCollectorWorker and SpanBytesDecoderDetector of Zipkin 3.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Any

import msgspec

from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender, SettingError
from kaspan.agent.senders.refusals import find_problem
from kaspan.agent.senders.secrets import Secrets
from kaspan.config.schema import KafkaSender as Settings

# Otherwise a traced consumer of the topic would report a span for every message of spans.
_HEADERS = [("b3", b"0")]
# Zipkin recognizes a v2 list only if it contains one of these.
_V2_SIGNS = (b'Endpoint"', b'"tags"')
_NO_TAGS = b'{"tags":{},'
_RECORD_BYTES = 1024  # more than a request adds to a message
_CLOSE_S = 5.0
_PASSED_ON = ("security_protocol", "sasl_", "ssl_")

Connect = Callable[..., Any]
"""Makes a producer of kafka-python from its settings."""


class KafkaSender(Sender):
    """Sends one message at a time and waits until all replicas in sync have it.

    A producer that failed is closed, and the next attempt creates a new one, so that no part of a message is
    sent later. Raises SettingError for settings that the installed kafka-python does not know, and if
    kafka-python is not installed.
    """

    def __init__(self, settings: Settings, connect: Connect | None = None) -> None:
        self.name = f"kafka {','.join(settings.bootstrap_servers)}/{settings.topic}"
        self._topic = settings.topic
        self._max_message_bytes = settings.max_message_bytes
        self._timeout_s = settings.timeout_s
        self._connect = connect or import_producer()
        passed_on = _passed_on(settings)
        known = getattr(self._connect, "DEFAULT_CONFIG", {})
        for name in passed_on:
            if name not in known:
                raise SettingError(name, "is not known to the kafka-python that is installed; update it")
        self._config = {k: v for k, v in _config(settings).items() if k in known} | passed_on
        self._secrets = Secrets((settings.sasl_plain_password, settings.ssl_password))
        self._producer: Any = None

    def send(self, spans: bytes, last_id: int) -> Outcome:  # noqa: ARG002 (part of the interface)
        """Send one list; blocks until it is acknowledged, at most for a few times the timeout."""
        if len(spans) + len(_NO_TAGS) > self._max_message_bytes:
            return Refused(f"larger than max_message_bytes, {self._max_message_bytes}")
        wrong = find_problem(spans)
        if wrong is not None:
            return Refused(f"Zipkin would refuse it: {wrong}")
        message = as_list(spans)
        try:
            if self._producer is None:
                self._producer = self._connect(**self._config)
            sent = self._producer.send(self._topic, message, headers=_HEADERS)
            # Longer than kafka-python's own timeout: at that it fails the message, and does not send it
            # later.
            sent.get(timeout=2 * self._timeout_s + _CLOSE_S)
        except Exception as error:  # noqa: BLE001 (kafka-python raises what it likes, and spans must not be lost)
            reason = self._secrets.masked(f"{type(error).__name__}: {error}")
            if type(error).__name__ in _TOO_LARGE:
                return Refused(reason)
            self._give_up(0)
            # Reference cycles in kafka-python 3 keep a producer that failed to start, with six descriptors.
            gc.collect()
            return Failed(reason)
        return Delivered()

    def close(self) -> None:
        """Close the producer; everything that it sent was acknowledged."""
        self._give_up(_CLOSE_S)

    def _give_up(self, timeout_s: float) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            producer.close(timeout=timeout_s)
        except Exception:  # noqa: BLE001 (its own timeout, from version 2.2 on)
            # It tried to send its open batches first, and has closed nothing.
            producer._sender.force_close()
            producer._sender.join(_CLOSE_S)
            producer.close(timeout=0)


# By name: kafka-python's versions do not all have both.
_TOO_LARGE = ("MessageSizeTooLargeError", "RecordListTooLargeError")


def import_producer() -> Any:
    """Return kafka-python's producer, untraced even under `kaspan run`. Raises SettingError without it."""
    # kaspan's interceptor reads this when kafka is imported. Otherwise the agent would trace its own reports.
    os.environ["KASPAN_INTERCEPTOR__ENABLED"] = "false"
    try:
        from kafka import KafkaProducer
    except ModuleNotFoundError as error:
        raise SettingError("", "needs kafka-python, which is missing: install kaspan[agent,kafka]") from error
    return KafkaProducer


def as_list(spans: bytes) -> bytes:
    """Write joined spans as a list that Zipkin's Kafka collector recognizes as v2, without changing them.

    Only if no span has an endpoint or tags, the first span gets empty tags.
    """
    if not any(sign in spans for sign in _V2_SIGNS):
        before, bracket, rest = spans.partition(b"{")
        if not before.strip() and bracket:
            spans = before + _NO_TAGS + rest
    return b"[" + spans + b"]"


def _passed_on(settings: Settings) -> dict[str, Any]:
    """Return the settings that are passed on to kafka-python, by its names."""
    values = msgspec.structs.asdict(settings)
    return {
        name: value for name, value in values.items() if name.startswith(_PASSED_ON) and value is not None
    }


def _config(settings: Settings) -> dict[str, Any]:
    timeout_ms = int(settings.timeout_s * 1000) + 1
    return {
        "bootstrap_servers": list(settings.bootstrap_servers),
        "client_id": "kaspan-agent",
        "acks": "all",
        # The agent retries. A retry by kafka-python could arrive after a later message.
        "retries": 0,
        "enable_idempotence": False,
        "max_in_flight_requests_per_connection": 1,
        "max_request_size": settings.max_message_bytes + _RECORD_BYTES,
        "max_block_ms": timeout_ms,
        "request_timeout_ms": timeout_ms,
        "delivery_timeout_ms": timeout_ms,
        "bootstrap_timeout_ms": timeout_ms,
    }
