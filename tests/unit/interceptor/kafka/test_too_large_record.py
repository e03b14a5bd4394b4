"""A record too large for its producer: sent without the context if that helps, else one failed span."""

from __future__ import annotations

from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import MessageSizeTooLargeError
from kafka.future import Future
from kafka.producer.future import FutureProduceResult, FutureRecordMetadata

from kaspan.config.schema import Sampling
from kaspan.interceptor.kafka import producer as producer_tracing
from support.kafka_clients import UnconnectedProducer

ORDERS = TopicPartition("orders", 0)


class Returning(UnconnectedProducer):
    """A producer whose send() returns a failed future for a record that is too large, as kafka-python 2."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().send(*args, **kwargs)
        except MessageSizeTooLargeError as error:
            refused = FutureRecordMetadata(FutureProduceResult(ORDERS), 0, None, None, -1, -1, -1)
            return refused.failure(error)


@pytest.mark.parametrize("room_bytes", [0, 30])
@pytest.mark.parametrize("rate", [1.0, 0.0])
@pytest.mark.parametrize("kind", [UnconnectedProducer, Returning])
def test_record_that_fits_without_the_context_is_sent(
    configured: Any, kind: type, rate: float, room_bytes: int
) -> None:
    """A record at the limit of max_request_size is sent as without kaspan, however send() refuses it."""
    value = b"x" * 1000
    size = UnconnectedProducer()._estimate_size_in_bytes(None, value, []) + room_bytes
    application = configured(sampling=Sampling(rate=rate))
    traced = type("Producer", (kind,), {})
    producer_tracing.instrument(traced, Future, application.tracing)
    producer: Any = traced(max_request_size=size)
    for _ in range(2):  # the first send of a topic goes another way than the others
        future = producer.send("orders", value)

        assert future is producer.last.future
        assert (producer.last.value, producer.last.headers) == (value, [])
        producer.last.acknowledge()
    assert [span.tags.get("error") for span in application.take()] == [None] * int(2 * rate)


def test_record_that_is_too_large_without_the_context_fails_once(application: Any) -> None:
    """One span says that the record was refused, and the caller has the error of the second try."""
    traced = type("Producer", (Returning,), {})
    producer_tracing.instrument(traced, Future, application.tracing)
    future = traced(max_request_size=10).send("orders", b"x" * 1000)  # type: ignore[attr-defined]

    assert isinstance(future.exception, MessageSizeTooLargeError)
    (span,) = application.take()
    assert span.tags["error"] == str(future.exception)
