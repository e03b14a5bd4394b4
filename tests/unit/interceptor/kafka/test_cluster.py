"""kafka-python's clients with nothing faked, on an embedded mock of Kafka: the same for every version.

Real Kafka does more (tests/integration/test_semantics.py), but not for kafka-python 2.0, whose requests
Kafka 4 no longer answers.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer import fetcher
from kafka.future import Future

from kaspan.demo.harness.cluster import MockCluster
from kaspan.interceptor.kafka import consumer as consumer_tracing
from kaspan.interceptor.kafka import producer as producer_tracing
from support.kafka_clients import make_tracing
from support.ring_reader import RingReader, Span, current, offsets
from support.waiting import wait_until

TIMEOUT_S = 30
API_VERSION = (2, 3)
"""What the mock understands; it answers newer clients' question for that in words that they do not."""


class Application:
    """Traced clients of the mock, one topic of its own, and the spans it has made."""

    def __init__(self, bootstrap_servers: str, directory: Path) -> None:
        self.topic = f"orders.{uuid.uuid4().hex[:12]}"
        self.take = RingReader(directory / "rings").take
        self._servers = bootstrap_servers
        self._clients: list[Any] = []
        self._producer_class: Any = type("Producer", (KafkaProducer,), {})
        self._consumer_class: Any = type("Consumer", (KafkaConsumer,), {})
        tracing = make_tracing(directory / "rings")
        producer_tracing.instrument(self._producer_class, Future, tracing)
        consumer_tracing.instrument(self._consumer_class, fetcher, tracing)

    def producer(self, **config: Any) -> Any:
        """Return a traced producer."""
        config = {"api_version": API_VERSION, **config}
        if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
            config["enable_idempotence"] = False  # which the mock has not
        return self._kept(self._producer_class(bootstrap_servers=self._servers, **config))

    def consumer(self, **config: Any) -> Any:
        """Return a traced consumer of the topic's partition 0, from the beginning, that needs no group."""
        return self._assigned(self._consumer_class, **config)

    def untraced_records(self, count: int) -> list[Any]:
        """Return what a consumer without kaspan gets."""
        return take_some(self._assigned(KafkaConsumer), count)

    def member(self, group: str) -> Any:
        """Return a traced consumer of the topic that is a member of a group."""
        config = {"group_id": group, "auto_offset_reset": "earliest", "api_version": API_VERSION}
        return self._kept(self._consumer_class(self.topic, bootstrap_servers=self._servers, **config))

    def send(self, count: int, **arguments: Any) -> list[Span]:
        """Send records to partition 0 and return their spans."""
        producer = self.producer()
        for at in range(count):
            producer.send(self.topic, b"value-%d" % at, partition=0, **arguments)
        producer.flush(TIMEOUT_S)
        return self.take()

    def close(self) -> None:
        """Close every client."""
        for client in self._clients:
            client.close()

    def _assigned(self, consumer_class: Any, **config: Any) -> Any:
        config |= {"auto_offset_reset": "earliest", "consumer_timeout_ms": TIMEOUT_S * 1000}
        config["api_version"] = API_VERSION
        consumer = self._kept(consumer_class(bootstrap_servers=self._servers, **config))
        consumer.assign([TopicPartition(self.topic, 0)])
        return consumer

    def _kept(self, client: Any) -> Any:
        self._clients.append(client)
        return client


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    made = MockCluster()
    yield made
    made.close()


@pytest.fixture
def application(
    cluster: MockCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Application]:
    """Give a traced application; what tracing changes in kafka-python's module is put back."""
    monkeypatch.setattr(fetcher, "ConsumerRecord", fetcher.ConsumerRecord)
    made = Application(cluster.bootstrap_servers, tmp_path)
    yield made
    made.close()


def take_some(consumer: Any, count: int) -> list[Any]:
    """Take so many records in a loop, and leave it."""
    taken = []
    for record in consumer:
        taken.append(record)
        if len(taken) == count:
            break
    return taken


def poll_some(consumer: Any, count: int) -> list[Any]:
    """Take so many records by poll(), looping over what it returns."""
    taken: list[Any] = []

    def poll() -> bool:
        for records in consumer.poll(timeout_ms=500, max_records=2).values():
            taken.extend(iter(records))
        return len(taken) >= count

    wait_until(poll, f"{count} records are polled", TIMEOUT_S)
    return taken


def next_some(consumer: Any, count: int) -> list[Any]:
    """Take so many records by next()."""
    return [next(consumer) for _ in range(count)]


WAYS: dict[str, Callable[[Any, int], list[Any]]] = {"loop": take_some, "next": next_some, "poll": poll_some}


@pytest.mark.parametrize("take", WAYS.values(), ids=WAYS.keys())
def test_record_is_received_in_its_senders_trace(
    application: Application, take: Callable[[Any, int], list[Any]]
) -> None:
    """Each record that goes through Kafka is a span of its sender and, under it, one of its receiver."""
    sent = application.send(5)
    consumer = application.consumer()
    take(consumer, 5)
    consumer.close()

    received = application.take()

    assert offsets(sent) == offsets(received) == [0, 1, 2, 3, 4]
    assert [span.name for span in received] == [f"process {application.topic}"] * 5
    assert [(span.trace_id, span.parent_id) for span in received] == [
        (span.trace_id, span.id) for span in sent
    ]
    assert [span.tags["kafka.lag"] for span in received] == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_record_through_kafka_is_the_one_without_kaspan(
    application: Application, compression: str | None
) -> None:
    """What a traced consumer delivers equals, field by field, what kafka-python delivers by itself."""
    producer = application.producer(compression_type=compression)
    for key in (b"key", None):
        producer.send(application.topic, b"value", key=key, headers=[("own", b"\xff")], partition=0)
    producer.send(application.topic, None, key=b"key", partition=0)
    producer.flush(TIMEOUT_S)

    traced = take_some(application.consumer(), 3)

    assert traced == application.untraced_records(3)
    assert [name for name, _ in traced[0].headers] == ["own", "b3"]


def test_consumer_of_a_group_has_one_span_a_record(application: Application) -> None:
    """A member of a group, with coordinator, rebalance and commit, has each record as one span."""
    application.send(4)
    group = f"depot-{application.topic}"
    consumer = application.member(group)
    take_some(consumer, 4)
    consumer.commit()
    consumer.close()

    spans = application.take()

    assert offsets(spans) == [0, 1, 2, 3]
    assert {span.tags["messaging.consumer.group.name"] for span in spans} == {group}


def test_record_of_before_kafka_had_headers_is_sent(application: Application) -> None:
    """A producer that takes the broker for one of before 0.11 sends its record without our header."""
    producer = application.producer(api_version=(0, 10, 2))
    producer.send(application.topic, b"value", partition=0).get(TIMEOUT_S)
    (span,) = application.take()
    (record,) = application.untraced_records(1)

    assert span.tags["messaging.kafka.offset"] == "0"
    assert (record.value, list(record.headers)) == (b"value", [])


def test_close_in_the_body_ends_loop_and_span(application: Application) -> None:
    """close() in the body ends the record's span at once and the loop at its next turn."""
    application.send(3)
    consumer = application.consumer()
    seen = []
    for record in consumer:
        seen.append(record.offset)
        consumer.close()
        assert current() is None

    assert seen == offsets(application.take()) == [0]


def test_seek_in_the_body_delivers_a_span_again(application: Application) -> None:
    """Each delivery is one span: a record that seek() brings back is delivered twice."""
    application.send(3)
    consumer = application.consumer()
    seen = []
    for record in consumer:
        seen.append(record.offset)
        if len(seen) == 2:
            consumer.seek(TopicPartition(application.topic, 0), 0)
        if len(seen) == 5:
            break

    assert seen == offsets(application.take()) == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("end", ["flush", "close"])
def test_flush_and_close_leave_no_span_open(application: Application, end: str) -> None:
    """What lingers is sent by flush() and by close(), and its spans are there when they return."""
    producer = application.producer(linger_ms=60_000)
    for _ in range(3):
        producer.send(application.topic, b"value", partition=0)
    before = application.take()
    getattr(producer, end)(timeout=TIMEOUT_S)

    assert before == []
    assert offsets(application.take()) == [0, 1, 2]


@pytest.mark.skipif("legacy_iterator" not in KafkaConsumer.DEFAULT_CONFIG, reason="gone with 2.1")
def test_legacy_iterator_is_traced_like_the_other(application: Application) -> None:
    """With kafka-python 2.0's iterator of before 1.4.7, a loop's records are each one span, current in it."""
    sent = application.send(3)
    seen = []
    for record in application.consumer(legacy_iterator=True):
        seen.append(current())
        if record.offset == 2:
            break

    spans = application.take()

    assert [span.parent_id for span in spans] == [span.id for span in sent]
    assert seen == [(span.trace_id, span.id) for span in spans]
