"""kafka-python without a broker: the remaining cost of a record is its instrumentation."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from kafka.consumer import fetcher
from kafka.consumer.group import KafkaConsumer
from kafka.future import Future
from kafka.producer.future import RecordMetadata
from kafka.producer.kafka import KafkaProducer
from kafka.structs import TopicPartition

KEY, VALUE = b"order-17", b"x" * 100
B3 = ("b3", b"ed374eabb5579f078f52d7affe4d4f6e-7396fe31ccd39954-1")
TRACEPARENT = ("traceparent", b"00-ed374eabb5579f078f52d7affe4d4f6e-7396fe31ccd39954-01")
HEADERS = [TRACEPARENT, B3]
"""Each record has a header in two formats; every tracer reads one of them."""


def put_nothing_behind_kafka() -> None:
    """Replace send() and __next__() of all producers and consumers. To be called before they are
    instrumented.
    """
    KafkaProducer.send = _send
    KafkaConsumer.__next__ = lambda self: next(self.records)


def _send(self, topic, value=None, key=None, headers=None, partition=None, timestamp_ms=None):  # type: ignore[no-untyped-def]  # noqa: ARG001
    future = Future()
    self.unacknowledged.append(future)
    return future


class NullProducer(KafkaProducer):
    """Accepts records and sends nothing; `flush` acknowledges them."""

    def __init__(self, topic: str) -> None:
        self.config = {"api_version": (2, 8), "client_id": "bench", "bootstrap_servers": "null:9092"}
        self._closed = True
        self.unacknowledged: list[Any] = []
        place = TopicPartition(topic, 0)
        self._metadata_of_all = RecordMetadata(topic, 0, place, 1, 1, None, len(KEY), len(VALUE), 52)

    def __del__(self) -> None:
        pass

    def flush(self, timeout: float | None = None) -> None:  # noqa: ARG002 (kafka-python's signature)
        """Acknowledge all records."""
        futures, self.unacknowledged = self.unacknowledged, []
        for future in futures:
            future.success(self._metadata_of_all)


class NullConsumer(KafkaConsumer):
    """Yields records of its topics for ever, one of each in turn."""

    def __init__(self, topics: list[str], headers: list[tuple[str, bytes]] = HEADERS) -> None:
        self.config = {"group_id": "bench", "client_id": "bench", "bootstrap_servers": "null:9092"}
        self._closed = True
        partition = type("State", (), {"highwater": 1 << 40})
        places = {TopicPartition(topic, 0): partition for topic in topics}
        self._subscription = type("Subscription", (), {"assignment": places})
        self.records = self._all(topics, headers)

    def __del__(self) -> None:
        pass

    def _all(self, topics: list[str], headers: list[tuple[str, bytes]]) -> Iterator[Any]:
        offset = 0
        place = fetcher.ConsumerRecord._fields.index("offset")
        filled = [self._fields(topic, headers) for topic in topics]
        while True:
            for values in filled:
                offset += 1
                values[place] = offset
                yield fetcher.ConsumerRecord(*values)

    def _fields(self, topic: str, headers: list[tuple[str, bytes]]) -> list[Any]:
        known = {
            "topic": topic,
            "partition": 0,
            "timestamp": time.time_ns() // 1_000_000,
            "timestamp_type": 0,
            "key": KEY,
            "value": VALUE,
            "headers": headers,
            "serialized_key_size": len(KEY),
            "serialized_value_size": len(VALUE),
            "serialized_header_size": 52,
        }
        return [known.get(name, 0) for name in fetcher.ConsumerRecord._fields]
