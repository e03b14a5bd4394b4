"""One variant of bench/interceptor.py, with VARIANT BOOTSTRAP_SERVERS RECORDS SLICES as its arguments.

Reads "send" or "receive" from standard input, does one slice of it and prints the CPU microseconds a record.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from kafka.consumer import fetcher
from kafka.consumer.group import KafkaConsumer
from kafka.future import Future
from kafka.producer.future import RecordMetadata
from kafka.producer.kafka import KafkaProducer
from kafka.structs import TopicPartition

VARIANT, BOOTSTRAP_SERVERS, RECORDS, SLICES = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
UNSAMPLED = "unsampled" in VARIANT
B3 = ("b3", b"ed374eabb5579f078f52d7affe4d4f6e-7396fe31ccd39954-" + (b"0" if UNSAMPLED else b"1"))
TRACEPARENT = (
    "traceparent",
    b"00-ed374eabb5579f078f52d7affe4d4f6e-7396fe31ccd39954-" + (b"00" if UNSAMPLED else b"01"),
)
TOPIC = "bench-" + VARIANT.replace(" ", "-")
READ_TOPIC = TOPIC + "-read"
"""Whoever reads, reads records with a header of either format: only one of them is looked at."""
KEY, VALUE = b"order-17", b"x" * 100


class NullProducer(KafkaProducer):
    """Takes records and does nothing; `flush` acknowledges them."""

    def __init__(self) -> None:
        self.config = {"api_version": (2, 8), "client_id": "bench", "bootstrap_servers": "null:9092"}
        self._closed = True
        self.unacknowledged: list[Any] = []
        self._metadata_of_all = RecordMetadata(
            TOPIC, 0, TopicPartition(TOPIC, 0), 1, 1, None, len(KEY), len(VALUE), 52
        )

    def __del__(self) -> None:
        pass

    def flush(self, timeout: float | None = None) -> None:  # noqa: ARG002 (kafka-python's signature)
        """Acknowledge everything."""
        futures, self.unacknowledged = self.unacknowledged, []
        for future in futures:
            future.success(self._metadata_of_all)


class NullConsumer(KafkaConsumer):
    """Has the same record for ever."""

    def __init__(self) -> None:
        self.config = {"group_id": "bench", "client_id": "bench", "bootstrap_servers": "null:9092"}
        self._closed = True
        partition = type("State", (), {"highwater": 1 << 40})
        self._subscription = type("Subscription", (), {"assignment": {TopicPartition(TOPIC, 0): partition}})
        self.records = self._all()

    def __del__(self) -> None:
        pass

    def _all(self) -> Any:
        now_ms = time.time_ns() // 1_000_000
        fields = {
            "topic": TOPIC,
            "partition": 0,
            "leader_epoch": 0,
            "timestamp": now_ms,
            "timestamp_type": 0,
            "key": KEY,
            "value": VALUE,
            "headers": [TRACEPARENT, B3],
            "checksum": None,
            "serialized_key_size": 8,
            "serialized_value_size": 100,
            "serialized_header_size": 52,
        }
        fields = {name: fields[name] for name in fetcher.ConsumerRecord._fields if name != "offset"}
        names = fetcher.ConsumerRecord._fields
        offset = 0
        while True:
            offset += 1
            values = [offset if name == "offset" else fields[name] for name in names]
            yield fetcher.ConsumerRecord(*values)


def null_send(self, topic, value=None, key=None, headers=None, partition=None, timestamp_ms=None):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Stand where the real send() was before anything was instrumented."""
    future = Future()
    self.unacknowledged.append(future)
    return future


def instrument() -> None:
    """Switch on what this variant measures."""
    if VARIANT.startswith("kaspan"):
        from kaspan.interceptor import activation

        activation.activate()
    elif VARIANT.startswith("peer"):
        from opentelemetry import trace
        from opentelemetry.instrumentation.kafka import KafkaInstrumentor
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

        class Nothing(SpanExporter):
            def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002
                return SpanExportResult.SUCCESS

        sampler = sampling.ALWAYS_OFF if "unsampled" in VARIANT else sampling.ALWAYS_ON
        provider = TracerProvider(sampler=sampling.ParentBased(sampler))
        provider.add_span_processor(BatchSpanProcessor(Nothing()))
        trace.set_tracer_provider(provider)
        KafkaInstrumentor().instrument()


def fill() -> None:
    """Send what will be read, before anything is instrumented."""
    producer = KafkaProducer(bootstrap_servers=BOOTSTRAP_SERVERS, linger_ms=20)
    for _ in range(RECORDS * SLICES):
        producer.send(READ_TOPIC, VALUE, key=KEY, headers=[TRACEPARENT, B3])
    producer.close()


def main() -> None:
    """Serve slices until standard input ends."""
    null = not BOOTSTRAP_SERVERS
    if null:
        KafkaProducer.send = null_send
        KafkaConsumer.__next__ = lambda self: next(self.records)
    else:
        fill()
    instrument()
    headers = {"headers": [B3]} if VARIANT == "floor" else {}
    producer = NullProducer() if null else KafkaProducer(bootstrap_servers=BOOTSTRAP_SERVERS)
    consumer = NullConsumer() if null else None

    def send() -> float:
        began = time.process_time()
        for _ in range(RECORDS):
            producer.send(TOPIC, VALUE, key=KEY, **headers)
        producer.flush()
        return time.process_time() - began

    def receive() -> float:
        nonlocal consumer
        if consumer is None:
            consumer = KafkaConsumer(
                READ_TOPIC, bootstrap_servers=BOOTSTRAP_SERVERS, group_id=TOPIC, auto_offset_reset="earliest"
            )
            next(iter(consumer))
        left = RECORDS - 1
        began = time.process_time()
        for _ in consumer:
            left -= 1
            if not left:
                break
        return time.process_time() - began

    operations = {"send": send, "receive": receive}
    for line in sys.stdin:
        cost_s = operations[line.strip()]()
        print(cost_s / RECORDS * 1e6, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
