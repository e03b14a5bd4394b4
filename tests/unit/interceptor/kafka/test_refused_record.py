"""A record that its deserializer refuses: a span that says so, and the application's exception as it was."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from kafka import TopicPartition

from support.ring_reader import current, offsets

ORDERS = TopicPartition("orders", 2)
SENDER = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"


class SchemaError(Exception):
    """What the application's deserializer raises."""


def no_schema() -> SchemaError:
    return SchemaError("no schema 7")


def by_poll(consumer: Any) -> Any:
    return consumer.poll()


def by_next(consumer: Any) -> Any:
    return next(consumer)


def by_loop(consumer: Any) -> Any:
    return [record.offset for record in consumer]


@pytest.fixture(params=[by_poll, by_next, by_loop])
def ask(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Give each way to ask a consumer for records."""
    asking: Callable[[Any], Any] = request.param
    return asking


def refuse(consumer: Any, ask: Callable[[Any], Any]) -> None:
    with pytest.raises(SchemaError, match="no schema 7"):
        ask(consumer)


def test_refused_record_has_a_span_with_its_error(application: Any, ask: Callable[[Any], Any]) -> None:
    """It says which record was refused and why, and is under the record's sender."""
    consumer = application.consumer()
    consumer.let_deserializer_raise(no_schema, ORDERS, 3, [("b3", SENDER)])

    refuse(consumer, ask)

    (span,) = application.take()
    assert (span.name, span.kind) == ("poll orders", "CONSUMER")
    assert (span.trace_id, span.parent_id) == ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312")
    assert span.tags["error"] == "no schema 7"
    assert span.tags["error.type"] == "SchemaError"
    assert span.tags["messaging.operation.name"] == "poll"
    assert span.tags["messaging.destination.partition.id"] == "2"
    assert span.tags["messaging.kafka.offset"] == "3"
    assert span.tags["kafka.key"] == "key-3"
    assert "messaging.kafka.message.tombstone" not in span.tags
    assert current() is None


def test_record_that_is_refused_again_has_one_span(application: Any, ask: Callable[[Any], Any]) -> None:
    """kafka-python tries the same record each time it is asked: a retry makes no second span."""
    consumer = application.consumer()
    for offset in (3, 3, 3, 4, 4):
        consumer.let_deserializer_raise(no_schema, ORDERS, offset)
        refuse(consumer, ask)

    assert offsets(application.take()) == [3, 4]


def test_exception_of_a_deserializer_is_what_it_is_without_kaspan(
    application: Any, ask: Callable[[Any], Any]
) -> None:
    """The application gets the very exception, with nothing chained to it, and the frames of its own code."""
    raised = no_schema()
    consumer = application.consumer()
    consumer.let_deserializer_raise(lambda: raised, ORDERS, 0)

    with pytest.raises(SchemaError) as caught:
        ask(consumer)

    assert caught.value is raised
    assert (raised.__cause__, raised.__context__) == (None, None)
    frames = [frame.name for frame in traceback.extract_tb(raised.__traceback__)]
    assert frames[-1] == "deserialize"
    assert "refused" not in frames


def test_refused_record_of_an_excluded_topic_has_no_span(configured: Any) -> None:
    """An excluded topic has no spans, and none for a refused record either."""
    application = configured(exclude_topics=["orders"])
    consumer = application.consumer()
    consumer.let_deserializer_raise(no_schema, ORDERS, 0)

    refuse(consumer, by_poll)

    assert application.take() == []


def test_refused_record_of_a_trace_that_is_not_recorded_has_no_span(application: Any) -> None:
    """The sender's decision is kept."""
    consumer = application.consumer()
    consumer.let_deserializer_raise(no_schema, ORDERS, 0, [("b3", SENDER[:-1] + b"0")])

    refuse(consumer, by_poll)

    assert application.take() == []


class UnreadableError(SchemaError):
    """An exception that cannot be made text."""

    def __str__(self) -> str:
        raise RuntimeError


def test_refused_record_whose_error_has_no_text_has_a_span(application: Any) -> None:
    """The application gets its exception, and the span has the class for a message."""
    consumer = application.consumer()
    consumer.let_deserializer_raise(UnreadableError, ORDERS, 0)

    with pytest.raises(UnreadableError):
        by_poll(consumer)

    (span,) = application.take()
    assert span.tags["error"] == span.tags["error.type"] == "UnreadableError"


def test_other_errors_of_a_poll_have_no_span(application: Any, ask: Callable[[Any], Any]) -> None:
    """Only a record that was refused is told: what else fails is about none."""
    consumer = application.consumer()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise SchemaError("no schema 7")

    consumer._poll_once = fail
    refuse(consumer, ask)

    assert application.take() == []
