"""The demo's three applications on real Kafka, with names of their own for each test, and their records."""

from __future__ import annotations

import json
import uuid
from typing import Any, NamedTuple

from kafka import KafkaConsumer, TopicPartition

from servers import KafkaServer
from support.deployment import Deployment, demo
from support.process import RunningProcess

READ_TIMEOUT_MS = 30_000


class ServiceNames(NamedTuple):
    """The services of one shop; Zipkin keeps the spans of every test, and these tell them apart."""

    orders: str
    shipping: str
    mailer: str


class OrderFlow:
    """One flow orders -> topic -> shipping -> topic -> mailer of `count` orders; makes its topics.

    With one partition every application sees the orders in one order, with more Kafka promises none.
    """

    def __init__(self, kafka: KafkaServer, count: int, partitions: int = 1) -> None:
        run = uuid.uuid4().hex[:8]
        self.count = count
        self.services = ServiceNames(f"orders-{run}", f"shipping-{run}", f"mailer-{run}")
        self.orders_topic = f"orders.{run}"
        self.shipments_topic = f"shipments.{run}"
        self._kafka = kafka
        self._partitions = partitions
        kafka.create_topics(self.orders_topic, self.shipments_topic, partitions=partitions)
        common = ("--kafka", kafka.bootstrap_servers, "--count", count)
        # A line for each order shows how far the shop is; work would only make the tests longer.
        self._commands = (
            demo("orders", *common, "--topic", self.orders_topic),
            demo(
                "shipping",
                *common,
                *("--orders-topic", self.orders_topic, "--shipments-topic", self.shipments_topic),
                *("--group", f"shipping-{run}", "--work-s", 0),
            ),
            demo(
                "mailer", *common, "--topic", self.shipments_topic, "--group", f"mailer-{run}", "--work-s", 0
            ),
        )

    def open(self, deployment: Deployment, traced: bool = True) -> list[RunningProcess]:
        """Start orders, shipping and mailer; each ends by itself after `count` orders."""
        start = deployment.start_traced if traced else deployment.start
        return [start(name, *command) for name, command in zip(self.services, self._commands, strict=True)]

    def orders(self) -> list[Any]:
        """Read the records that orders wrote, by partition and offset."""
        return self._records(self.orders_topic)

    def shipments(self) -> list[Any]:
        """Read the records that shipping wrote, by partition and offset."""
        return self._records(self.shipments_topic)

    def _records(self, topic: str) -> list[Any]:
        consumer = KafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap_servers, consumer_timeout_ms=READ_TIMEOUT_MS
        )
        try:
            partitions = [TopicPartition(topic, number) for number in range(self._partitions)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            records = []
            for end in consumer.end_offsets(partitions).values():
                records += [next(consumer) for _ in range(end)]
        finally:
            consumer.close()
        return sorted(records, key=lambda record: (record.partition, record.offset))


def order_number(record: Any) -> int:
    """Return which order a record of either topic is about."""
    number: int = json.loads(record.value)["order"]
    return number


def trace_context(record: Any) -> tuple[str, str]:
    """Return the trace id and the span id that the record's one b3 header carries."""
    (value,) = [value for key, value in record.headers if key == "b3"]
    trace_id, span_id = value.decode().split("-")[:2]
    return trace_id, span_id
