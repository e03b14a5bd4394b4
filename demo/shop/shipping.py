"""Ship orders: read `orders`, pack each one, write a shipment to `shipments`.

One of the demo's three applications: plain kafka-python, without a line for tracing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer
from kafka.errors import MessageSizeTooLargeError


class Announce(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python 2.x ships no types
    """Prints a line when the consumer has partitions to read."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Print the line."""
        if assigned:
            print("shipping: waiting for orders", file=sys.stderr, flush=True)

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Do nothing: each record is finished before the next is requested."""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="shipping", description="Turn orders into shipments.")
    parser.add_argument("--kafka", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--orders-topic", default="orders")
    parser.add_argument("--shipments-topic", default="shipments")
    parser.add_argument("--group", default="shipping")
    parser.add_argument("--count", type=int, default=0, help="end after so many orders; 0 means never")
    parser.add_argument("--idle-timeout-s", type=float, default=30.0, help="end if none comes for so long")
    parser.add_argument("--work-s", type=float, default=0.02, help="how long packing takes")
    parser.add_argument("--mock", action="store_true", help="the broker is librdkafka's mock cluster")
    return parser.parse_args()


def connect(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Make the consumer and the producer.

    The mock cluster speaks the protocol of Kafka 2.3, without idempotence, and does not answer a waiting
    fetch when a record comes.
    """
    common: dict[str, object] = {"bootstrap_servers": arguments.kafka}
    consuming: dict[str, object] = {}
    producing: dict[str, object] = {}
    if arguments.mock:
        common["api_version"] = (2, 3)
        consuming["fetch_max_wait_ms"] = 20
        if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
            producing["enable_idempotence"] = False
    consumer = KafkaConsumer(
        group_id=arguments.group,
        auto_offset_reset="earliest",
        consumer_timeout_ms=int(arguments.idle_timeout_s * 1000),
        **common,
        **consuming,
    )
    if arguments.mock:
        # kafka-python 3.0 may lose a subscription during its connecting, and join without partitions.
        consumer.topics()
    consumer.subscribe([arguments.orders_topic], listener=Announce())
    producer = KafkaProducer(**common, **producing)
    return consumer, producer


def pack(order: dict[str, Any], work_s: float) -> dict[str, Any]:
    """Pack an order: every piece gets its label."""
    time.sleep(work_s)
    labels = [f"{order['customer']}-{order['order']}-{piece}" for piece in range(1, order["pieces"] + 1)]
    return {"order": order["order"], "customer": order["customer"], "item": order["item"], "labels": labels}


def ship(producer: Any, topic: str, key: bytes, shipment: dict[str, Any]) -> str:
    """Send one shipment; returns the outcome in words."""
    pieces = len(shipment["labels"])
    try:
        producer.send(topic, key=key, value=json.dumps(shipment).encode()).get(timeout=30)
    except MessageSizeTooLargeError:
        return f"NOT shipped, {pieces} labels are too large for one message (MessageSizeTooLargeError)"
    return f"shipped {pieces} x {shipment['item']} to {shipment['customer']}"


def main() -> int:
    """Ship orders until no more come; 1 if fewer than --count came."""
    arguments = parse_arguments()
    consumer, producer = connect(arguments)
    done = 0
    try:
        for record in consumer:
            shipment = pack(json.loads(record.value), arguments.work_s)
            outcome = ship(producer, arguments.shipments_topic, record.key, shipment)
            print(f"order {shipment['order']}: {outcome}", flush=True)
            done += 1
            if done == arguments.count:
                break
    finally:
        producer.close(timeout=5)
        consumer.close()
    if done < arguments.count:
        print(f"shipping: only {done} of {arguments.count} orders came", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
