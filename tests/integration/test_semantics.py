"""Spans of what only a real broker does: transactions, split batches, rebalances, refusals, lag."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.consumer import fetcher
from kafka.errors import KafkaError
from kafka.future import Future
from kafka.producer import kafka as kafka_producer
from kafka.producer.future import FutureRecordMetadata
from kafka.producer.sender import Sender
from kafka.record import default_records
from kafka.record.memory_records import MemoryRecordsBuilder

from kaspan.interceptor.kafka import consumer as consumer_tracing
from kaspan.interceptor.kafka import producer as producer_tracing
from kaspan.interceptor.kafka.too_large_batch import retry_without_context
from servers import KafkaServer
from support.kafka_clients import make_tracing
from support.ring_reader import RingReader, Span, current, offsets
from support.waiting import wait_until

TIMEOUT_S = 30
CONSUMER_TIMEOUT_MS = 5_000


class Application:
    """Traced clients of the real broker, topics of its own, and the spans it has made."""

    def __init__(self, kafka: KafkaServer, directory: Path) -> None:
        self._servers = kafka.bootstrap_servers
        tracing = self.tracing = make_tracing(directory / "rings")
        self.take = RingReader(directory / "rings").take
        self._producer_class: Any = type("Producer", (KafkaProducer,), {})
        self._consumer_class: Any = type("Consumer", (KafkaConsumer,), {})
        producer_tracing.instrument(self._producer_class, Future, tracing)
        consumer_tracing.instrument(self._consumer_class, fetcher, tracing)
        self._clients: list[Any] = []

    def topic(self, partitions: int = 1, **configs: str) -> str:
        """Make a topic and return its name."""
        name = f"semantics.{uuid.uuid4().hex[:12]}"
        admin = KafkaAdminClient(bootstrap_servers=self._servers)
        try:
            settings = {key.replace("_", "."): value for key, value in configs.items()}
            admin.create_topics([NewTopic(name, partitions, 1, topic_configs=settings)])
        finally:
            admin.close()
        return name

    def producer(self, **config: Any) -> Any:
        """Return a traced producer."""
        self._clients.append(self._producer_class(bootstrap_servers=self._servers, **config))
        return self._clients[-1]

    def consumer(self, topic: str, **config: Any) -> Any:
        """Return a traced consumer that reads from the beginning and gives up when nothing comes."""
        config = {
            "auto_offset_reset": "earliest",
            "consumer_timeout_ms": CONSUMER_TIMEOUT_MS,
            "group_id": f"group-{uuid.uuid4().hex[:12]}",
            **config,
        }
        self._clients.append(self._consumer_class(topic, bootstrap_servers=self._servers, **config))
        return self._clients[-1]

    def close(self) -> None:
        """Close every client."""
        for client in self._clients:
            # kafka-python 3.0 takes a batch that was split for one that is still under way.
            with contextlib.suppress(KafkaError):
                client.close()


@pytest.fixture
def application(kafka: KafkaServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """Give a traced application; what tracing changes in kafka-python's module is put back."""
    monkeypatch.setattr(fetcher, "ConsumerRecord", fetcher.ConsumerRecord)
    made = Application(kafka, tmp_path)
    yield made
    made.close()


def send_all(producer: Any, topic: str, count: int, size: int = 10) -> list[Any]:
    """Send records and return what the broker said to each."""
    futures = [producer.send(topic, b"%d" % at + b"x" * size, key=b"key-%d" % at) for at in range(count)]
    producer.flush(TIMEOUT_S)
    return [future.get(TIMEOUT_S) for future in futures]


def take_some(consumer: Any, count: int) -> list[Any]:
    """Take so many records in a loop, and leave it."""
    taken = []
    for record in consumer:
        taken.append(record)
        if len(taken) == count:
            break
    return taken


def place(span: Span) -> tuple[int, int]:
    """Return the partition and the offset that a span is about."""
    partition = int(span.tags["messaging.destination.partition.id"])
    return partition, int(span.tags["messaging.kafka.offset"])


def test_span_of_a_send_has_the_place_that_the_broker_gave_the_record(application: Application) -> None:
    """Partition and offset of each of 300 sends, over three partitions, are those of its record."""
    metadata = send_all(application.producer(), application.topic(partitions=3), 300)

    spans = {span.tags["kafka.key"]: place(span) for span in application.take()}

    assert spans == {f"key-{at}": (one.partition, one.offset) for at, one in enumerate(metadata)}


def test_sends_of_an_idempotent_producer_are_one_span_each(application: Application) -> None:
    """A producer that numbers its batches makes the spans that any other makes."""
    if "enable_idempotence" not in KafkaProducer.DEFAULT_CONFIG:
        pytest.skip("this kafka-python has no idempotent producer")
    metadata = send_all(application.producer(enable_idempotence=True), application.topic(), 100)

    spans = application.take()

    assert sorted(offsets(spans)) == [one.offset for one in metadata] == list(range(100))
    assert not any("error" in span.tags for span in spans)


def test_records_of_a_batch_that_the_broker_has_split_keep_their_own_places(application: Application) -> None:
    """A batch too large for its topic is sent again in parts: one span a record, with its own offset."""
    if not hasattr(FutureRecordMetadata, "rebind"):
        pytest.skip("this kafka-python does not split batches")
    topic = application.topic(max_message_bytes="2000")
    producer = application.producer(linger_ms=500, batch_size=16_384)
    futures = [producer.send(topic, b"x" * 300, key=b"key-%d" % at) for at in range(30)]
    metadata = [future.get(TIMEOUT_S) for future in futures]

    spans = application.take()

    assert [one.offset for one in metadata] == list(range(30))
    assert {span.tags["kafka.key"]: place(span) for span in spans} == {
        f"key-{at}": (0, at) for at in range(30)
    }
    assert len(spans) == 30


def test_record_too_large_for_its_topic_is_an_error_of_its_span(application: Application) -> None:
    """What the broker refuses for its size has the broker's error on its span."""
    topic = application.topic(max_message_bytes="1000")
    future = application.producer().send(topic, b"x" * 5000)
    with pytest.raises(KafkaError) as refused:
        future.get(TIMEOUT_S)

    (span,) = application.take()

    assert span.tags["error.type"] == type(refused.value).__name__ == "MessageSizeTooLargeError"
    assert "messaging.kafka.offset" not in span.tags


@pytest.mark.parametrize("is_idempotent", [True, False])
def test_record_that_fits_into_its_topic_without_the_context_is_sent(
    application: Application, monkeypatch: pytest.MonkeyPatch, is_idempotent: bool
) -> None:
    """A record at the limit of max.message.bytes arrives as without kaspan; its span has no error."""
    traced = type("Sender", (Sender,), {})
    retry_without_context(traced, default_records, application.tracing)
    monkeypatch.setattr(kafka_producer, "Sender", traced)
    config = {}
    if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
        config = {"enable_idempotence": is_idempotent}
    elif is_idempotent:
        pytest.skip("this kafka-python has no idempotent producer")
    values = [b"%d" % at * 700 for at in range(5)]
    alone = MemoryRecordsBuilder(2, 0, 1 << 20)
    alone.append(int(time.time() * 1000), None, values[0], [])
    alone.close()
    topic = application.topic(max_message_bytes=str(len(alone.buffer())))
    producer = application.producer(max_in_flight_requests_per_connection=1, batch_size=0, **config)
    futures = [producer.send(topic, value) for value in values]

    offsets_of_all = [future.get(TIMEOUT_S).offset for future in futures]

    assert offsets_of_all == list(range(5))
    spans = application.take()
    assert [place(span) for span in spans] == [(0, at) for at in range(5)]
    assert not any("error" in span.tags for span in spans)
    received = take_some(application.consumer(topic), 5)
    assert [(record.value, record.headers) for record in received] == [(value, []) for value in values]


def test_refusal_by_the_broker_is_an_error_of_the_span(application: Application) -> None:
    """A timestamp that the topic does not allow: the span ends with the error that the future has."""
    topic = application.topic(message_timestamp_before_max_ms="1000")
    future = application.producer().send(topic, b"value", timestamp_ms=1)
    with pytest.raises(KafkaError) as refused:
        future.get(TIMEOUT_S)

    (span,) = application.take()

    assert span.tags["error.type"] == type(refused.value).__name__ == "InvalidTimestampError"
    assert span.tags["error"] == str(refused.value)


def test_transaction_that_is_committed_has_spans_of_its_records(application: Application) -> None:
    """Within a transaction each send is a span, and each record a reader of committed records gets is one."""
    if not hasattr(KafkaProducer, "begin_transaction"):
        pytest.skip("this kafka-python has no transactions")
    topic = application.topic()
    producer = application.producer(transactional_id=f"till-{uuid.uuid4().hex}")
    producer.init_transactions()
    producer.begin_transaction()
    send_all(producer, topic, 3)
    producer.commit_transaction()
    producer.begin_transaction()
    send_all(producer, topic, 2)
    producer.abort_transaction()
    sent = application.take()
    consumer = application.consumer(topic, isolation_level="read_committed", consumer_timeout_ms=3_000)
    received = [record.offset for record in consumer]

    spans = application.take()

    # The markers of commit and abort take an offset each.
    assert sorted(offsets(sent)) == [0, 1, 2, 4, 5]
    assert received == [0, 1, 2]
    assert offsets(spans) == [0, 1, 2]
    by_offset = {int(span.tags["messaging.kafka.offset"]): span for span in sent}
    assert all(span.parent_id == by_offset[at].id for at, span in enumerate(spans))


def test_aborted_transaction_ends_every_span_that_was_under_way(application: Application) -> None:
    """What an abort throws away before it was sent has a span with an error."""
    if not hasattr(KafkaProducer, "begin_transaction"):
        pytest.skip("this kafka-python has no transactions")
    producer = application.producer(transactional_id=f"till-{uuid.uuid4().hex}", linger_ms=60_000)
    topic = application.topic()
    producer.init_transactions()
    producer.begin_transaction()
    futures = [producer.send(topic, b"value") for _ in range(5)]
    producer.abort_transaction()
    wait_until(lambda: all(future.is_done for future in futures), "every future is done", TIMEOUT_S)

    spans = application.take()

    assert len(spans) == 5
    assert Counter("error" in span.tags for span in spans) == Counter(
        future.exception is not None for future in futures
    )


ENDS: dict[str, Callable[[Any], None]] = {
    "flush": lambda producer: producer.flush(TIMEOUT_S),
    "close": lambda producer: producer.close(TIMEOUT_S),
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
def test_flush_and_close_leave_no_span_open(application: Application, end: Callable[[Any], None]) -> None:
    """What lingers is sent by flush() and by close(), and its spans are there when they return."""
    topic = application.topic()
    producer = application.producer(linger_ms=60_000)
    for at in range(10):
        producer.send(topic, b"%d" % at)
    before = len(application.take())
    end(producer)

    assert before == 0
    assert sorted(offsets(application.take())) == list(range(10))


def test_close_without_time_ends_every_span_one_way_or_the_other(application: Application) -> None:
    """A producer that is closed at once fails or sends what it had not, and each send has its one span."""
    topic = application.topic()
    producer = application.producer(linger_ms=3_000)  # after which 2.x sends what it was closed with
    futures = [producer.send(topic, b"%d" % at) for at in range(10)]
    with contextlib.suppress(KafkaError):  # from 3.0 on kafka-python says so when there was no time
        producer.close(timeout=0)
    wait_until(lambda: all(future.is_done for future in futures), "every future is done", TIMEOUT_S)
    # A future is done a moment before its callbacks run.
    spans: list[Span] = []
    wait_until(lambda: spans.extend(application.take()) or len(spans) >= 10, "every span ends", TIMEOUT_S)

    assert len(spans) == 10
    assert Counter("error" in span.tags for span in spans) == Counter(
        future.exception is not None for future in futures
    )


def test_time_that_send_waits_for_metadata_is_before_the_annotation(application: Application) -> None:
    """The first send to a topic blocks until its partitions are known; kafka.enqueued is when it returned."""
    topic = application.topic()
    producer = application.producer()
    called_us = time.time_ns() // 1000
    future = producer.send(topic, b"value")
    returned_us = time.time_ns() // 1000
    future.get(TIMEOUT_S)

    (span,) = application.take()

    (annotation,) = span.annotations
    assert annotation.value == "kafka.enqueued"
    assert span.timestamp is not None
    assert span.duration is not None
    assert called_us <= span.timestamp <= annotation.timestamp <= returned_us
    assert annotation.timestamp <= span.timestamp + span.duration


def test_records_without_acknowledgement_have_spans_without_offset(application: Application) -> None:
    """With acks=0 a send ends when it is written to the socket; the broker gave it no offset."""
    settings: dict[str, Any] = {"acks": 0}
    if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
        settings["enable_idempotence"] = False
    producer = application.producer(**settings)
    topic = application.topic()
    for _ in range(3):
        producer.send(topic, b"value").get(TIMEOUT_S)

    spans = application.take()

    assert len(spans) == 3
    assert not any("messaging.kafka.offset" in span.tags or "error" in span.tags for span in spans)


def test_received_record_is_in_its_senders_trace(application: Application) -> None:
    """Through the broker, each record's process span is the child of its send span."""
    topic = application.topic(partitions=2)
    send_all(application.producer(), topic, 20)
    sent = {place(span): span for span in application.take()}
    take_some(application.consumer(topic), 20)

    received = application.take()

    assert len(received) == len(sent) == 20
    for span in received:
        sender = sent[place(span)]
        assert (span.trace_id, span.parent_id) == (sender.trace_id, sender.id)


def test_lag_and_queue_time_are_those_of_the_broker(application: Application) -> None:
    """Of records that wait, the first is as far behind as there are others, and each has waited its time."""
    topic = application.topic()
    send_all(application.producer(), topic, 5)
    application.take()
    records = take_some(application.consumer(topic), 5)

    spans = application.take()

    assert [span.tags["kafka.lag"] for span in spans] == ["4", "3", "2", "1", "0"]
    for span, record in zip(spans, records, strict=True):
        assert span.timestamp is not None
        assert int(span.tags["kafka.queue_time_ms"]) == span.timestamp // 1000 - record.timestamp


def test_tombstone_on_a_compacted_topic_is_said_on_both_sides(application: Application) -> None:
    """A deleted key is a tombstone for who sends and for who receives it."""
    topic = application.topic(cleanup_policy="compact")
    producer = application.producer()
    producer.send(topic, b"value", key=b"order-7")
    producer.send(topic, None, key=b"order-7")
    producer.flush(TIMEOUT_S)
    take_some(application.consumer(topic), 2)

    said = [
        (span.kind, offset, span.tags.get("messaging.kafka.message.tombstone"))
        for span in application.take()
        for offset in offsets([span])
    ]

    assert sorted(said) == [
        ("CONSUMER", 0, None),
        ("CONSUMER", 1, "true"),
        ("PRODUCER", 0, None),
        ("PRODUCER", 1, "true"),
    ]


def test_record_that_is_read_again_after_seek_is_a_span_again(application: Application) -> None:
    """Each delivery is one span: a record that seek() brings back is delivered twice."""
    topic = application.topic()
    send_all(application.producer(), topic, 4)
    application.take()
    consumer = application.consumer(topic)
    seen = []
    for record in consumer:
        seen.append(record.offset)
        if len(seen) == 3:
            consumer.seek(TopicPartition(topic, 0), 1)
        if len(seen) == 6:
            break

    assert seen == [0, 1, 2, 1, 2, 3]
    assert offsets(application.take()) == seen


def test_partition_that_is_paused_in_the_body_delivers_no_span_more(application: Application) -> None:
    """Records of a partition that pauses stay undelivered, and have no span until it resumes."""
    topic = application.topic()
    send_all(application.producer(), topic, 4)
    application.take()
    consumer = application.consumer(topic, consumer_timeout_ms=2_000)
    seen = []
    for record in consumer:
        seen.append(record.offset)
        if record.offset == 1:
            consumer.pause(TopicPartition(topic, 0))
    assert offsets(application.take()) == seen == [0, 1]
    consumer.resume(TopicPartition(topic, 0))

    assert [record.offset for record in take_some(consumer, 2)] == [2, 3]
    assert offsets(application.take()) == [2, 3]


def test_consumer_closed_in_the_body_ends_the_loop_and_the_span(application: Application) -> None:
    """close() in the body ends the record's span at once and the loop at its next turn."""
    topic = application.topic()
    send_all(application.producer(), topic, 4)
    application.take()
    consumer = application.consumer(topic)
    seen = []
    for record in consumer:
        seen.append(record.offset)
        consumer.close()
        assert current() is None

    assert seen == offsets(application.take()) == [0]


def test_loop_with_a_timeout_ends_with_no_span_open(application: Application) -> None:
    """When nothing comes within consumer_timeout_ms the loop ends, each record a span, none current."""
    topic = application.topic()
    send_all(application.producer(), topic, 3)
    application.take()

    assert len(list(application.consumer(topic, consumer_timeout_ms=2_000))) == 3
    assert offsets(application.take()) == [0, 1, 2]
    assert current() is None


def test_polled_batches_are_one_span_a_record(application: Application) -> None:
    """poll() with max_records, over two partitions, until all are there."""
    topic = application.topic(partitions=2)
    send_all(application.producer(), topic, 50)
    application.take()
    consumer = application.consumer(topic)
    delivered: list[tuple[int, int]] = []

    def poll() -> bool:
        for records in consumer.poll(timeout_ms=500, max_records=7).values():
            delivered.extend((record.partition, record.offset) for record in records)
        return len(delivered) == 50

    wait_until(poll, "50 records are polled", TIMEOUT_S)

    assert Counter(map(place, application.take())) == Counter(delivered)


def test_rebalance_in_the_middle_of_a_batch_is_one_span_a_delivery(application: Application) -> None:
    """While partitions move to a second member, every delivery to either of them is one span, none more."""
    topic, group = application.topic(partitions=4), f"group-{uuid.uuid4().hex[:12]}"
    producer = application.producer()
    delivered: dict[str, list[tuple[int, int]]] = {"first": [], "second": []}
    finished = threading.Event()

    def consume(name: str) -> None:
        consumer = application.consumer(topic, group_id=group, consumer_timeout_ms=500, max_poll_records=20)
        while not finished.is_set():
            for record in consumer:
                assert current() is not None
                delivered[name].append((record.partition, record.offset))
        assert current() is None

    threads = {name: threading.Thread(target=consume, args=(name,)) for name in delivered}
    sent: list[Span] = []

    def feed_until(name: str) -> None:
        def enough() -> bool:
            for at in range(20):
                producer.send(topic, b"value", partition=at % 4)
            producer.flush(TIMEOUT_S)
            return len(delivered[name]) >= 20

        wait_until(enough, f"the {name} member has got records", 60, every_s=0.2)

    try:
        for name, thread in threads.items():
            thread.start()
            feed_until(name)
    finally:
        finished.set()
        for thread in threads.values():
            if thread.ident is not None:
                thread.join()

    spans = application.take()
    sent = [span for span in spans if span.kind == "PRODUCER"]
    received = [span for span in spans if span.kind == "CONSUMER"]
    assert Counter(map(place, received)) == Counter(delivered["first"] + delivered["second"])
    assert {span.parent_id for span in received} <= {span.id for span in sent}
