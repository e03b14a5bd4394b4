"""A batch that the broker refuses as too large goes out once more, without the context in its records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import MessageSizeTooLargeError, NotLeaderForPartitionError, RecordListTooLargeError
from kafka.producer.sender import Sender
from kafka.record import default_records
from kafka.record.memory_records import MemoryRecordsBuilder

from kaspan.interceptor.kafka.too_large_batch import retry_without_context

CONTEXT = ("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")
TENANT = ("tenant", b"7")
TIMESTAMP_MS = 1_700_000_000_000
GZIP = 1


def make_batch(headers: list[list[tuple[str, bytes]]], topic: str = "orders", **differs: Any) -> Any:
    """Make a closed batch of records, as it is when the broker's answer comes."""
    records = MemoryRecordsBuilder(differs.pop("magic", 2), differs.pop("compression", 0), 1 << 20)
    for number, one in enumerate(headers):
        assert records.append(TIMESTAMP_MS + number, b"key-%d" % number, b"value" * 20, one)
    state = differs.pop("state", None)
    if state is not None:
        records.set_producer_state(*state)
    records.close()
    return SimpleNamespace(
        **{
            "topic_partition": TopicPartition(topic, 0),
            "records": records,
            "attempts": 0,
            "final_state": None,
            "has_reached_delivery_timeout": lambda timeout_ms: False,
            **differs,
        }
    )


def content(batch: Any) -> list[tuple[Any, ...]]:
    """Return what a consumer would read of a batch."""
    read = default_records.DefaultRecordBatch(bytes(batch.records.buffer()))
    assert read.validate_crc()
    return [
        (record.offset, record.timestamp, bytes(record.key), bytes(record.value), list(record.headers))
        for record in read
    ]


def make_sender(application: Any) -> Any:
    """Make a traced sender of a producer that retries nothing by itself."""
    sender_class = type("Traced", (Sender,), {})
    retry_without_context(sender_class, default_records, application.tracing)
    sender: Any = sender_class.__new__(sender_class)
    sender.config = {"retries": 0}
    sender._accumulator = SimpleNamespace(delivery_timeout_ms=120_000)
    sender._transaction_manager = None
    return sender


@pytest.mark.parametrize("error", [MessageSizeTooLargeError, RecordListTooLargeError])
@pytest.mark.parametrize("compression", [0, GZIP])
def test_refused_batch_is_sent_once_more_without_the_context(
    application: Any, error: type[Exception], compression: int
) -> None:
    """All else in it stays as it is, and a second refusal is the application's."""
    sender = make_sender(application)
    batch = make_batch([[TENANT, CONTEXT], [CONTEXT], []], compression=compression)
    before = content(batch)
    size = len(batch.records.buffer())

    assert sender._can_retry(batch, error) is True

    assert content(batch) == [
        (*before[0][:4], [TENANT]),
        (*before[1][:4], []),
        (*before[2][:4], []),
    ]
    assert len(batch.records.buffer()) < size
    assert sender._can_retry(batch, error) is False


def test_sequence_numbers_stay(application: Any) -> None:
    """An idempotent producer's batch is to the broker the one that it has refused."""
    if not hasattr(MemoryRecordsBuilder, "set_producer_state"):
        pytest.skip("this kafka-python has no idempotent producer")
    batch = make_batch([[CONTEXT]], state=(17, 3, 5, True))

    assert make_sender(application)._can_retry(batch, MessageSizeTooLargeError) is True

    read = default_records.DefaultRecordBatch(bytes(batch.records.buffer()))
    assert (read.producer_id, read.producer_epoch, read.base_sequence, read.is_transactional) == (
        17,
        3,
        5,
        True,
    )


LEFT_ALONE = {
    "another error": ({}, NotLeaderForPartitionError),
    "no context in it": ({"headers": [[TENANT], []]}, MessageSizeTooLargeError),
    "a topic into which nothing is injected": ({"topic": "legacy"}, MessageSizeTooLargeError),
    "a topic of which nothing is recorded": ({"topic": "noise"}, MessageSizeTooLargeError),
    "a format without headers": ({"headers": [[]], "magic": 1}, MessageSizeTooLargeError),
    "a batch that is given up": ({"final_state": 1}, MessageSizeTooLargeError),
}


@pytest.mark.parametrize(("differs", "error"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_other_refusals_are_left_to_kafka_python(
    configured: Any, differs: dict[str, Any], error: type[Exception]
) -> None:
    """What the context has no part in fails as it does without kaspan, byte for byte."""
    application = configured(propagation__exclude_topics="[legacy]", exclude_topics="[noise]")
    batch = make_batch(**{"headers": [[CONTEXT]], **differs})
    before = bytes(batch.records.buffer())

    assert not make_sender(application)._can_retry(batch, error)
    assert bytes(batch.records.buffer()) == before


def test_batch_that_may_not_be_sent_any_more_is_not(application: Any) -> None:
    """After its delivery timeout, or with another producer id than the producer has by now."""
    sender = make_sender(application)
    sender._transaction_manager = SimpleNamespace(
        producer_id_and_epoch=SimpleNamespace(match=lambda _: False)
    )

    assert not sender._can_retry(make_batch([[CONTEXT]]), MessageSizeTooLargeError)

    sender._transaction_manager = None
    late = make_batch([[CONTEXT]], has_reached_delivery_timeout=lambda timeout_ms: timeout_ms == 120_000)
    assert not sender._can_retry(late, MessageSizeTooLargeError)


def test_batch_that_cannot_be_read_fails_as_without_kaspan(
    application: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong with it here is a warning, and the refusal stands."""
    batch = make_batch([[CONTEXT]])
    batch.records._buffer = batch.records.buffer()[:-30]
    caplog.set_level("DEBUG", "kaspan")

    assert not make_sender(application)._can_retry(batch, MessageSizeTooLargeError)
    assert "taking the context out of a batch that is too large failed" in caplog.text
