"""Take orders: write some to the topic `orders`, keyed by customer, and exit.

One of the demo's three applications: plain kafka-python, without a line for tracing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from kafka import KafkaProducer
from kafka.errors import KafkaError

CUSTOMERS = ("ada", "grace", "katherine", "mary", "radia")
ITEMS = ("teapot", "kettle", "cup")
# A shipment has a label for each piece: so many do not fit into a message of 1 MiB, Kafka's default limit.
POISON_PIECES = 100_000


def make_order(number: int, poison: bool) -> dict[str, object]:
    """Make order `number`, counted from 1; the same number makes the same order."""
    return {
        "order": number,
        "customer": CUSTOMERS[(number - 1) % len(CUSTOMERS)],
        "item": ITEMS[(number - 1) % len(ITEMS)],
        "pieces": POISON_PIECES if poison else 1 + number % 4,
    }


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="orders", description="Write orders to a Kafka topic.")
    parser.add_argument("--kafka", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--topic", default="orders")
    parser.add_argument("--count", type=int, default=3, help="how many orders to write")
    parser.add_argument("--interval-s", type=float, default=0.0, help="seconds between two orders")
    parser.add_argument("--poison", action="store_true", help="make the last order too large to be shipped")
    parser.add_argument("--mock", action="store_true", help="the broker is librdkafka's mock cluster")
    return parser.parse_args()


def client_settings(arguments: argparse.Namespace) -> dict[str, object]:
    """Choose the producer's settings; the mock cluster speaks Kafka 2.3, without idempotence."""
    settings: dict[str, object] = {"bootstrap_servers": arguments.kafka}
    if arguments.mock:
        settings["api_version"] = (2, 3)
        if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
            settings["enable_idempotence"] = False
    return settings


def main() -> int:
    """Write the orders; 1 if one did not reach Kafka."""
    arguments = parse_arguments()
    producer = KafkaProducer(**client_settings(arguments))
    sent = []
    for number in range(1, arguments.count + 1):
        order = make_order(number, poison=arguments.poison and number == arguments.count)
        key = str(order["customer"]).encode()
        sent.append(producer.send(arguments.topic, key=key, value=json.dumps(order).encode()))
        print(f"order {number}: {order['customer']} wants {order['pieces']} x {order['item']}", flush=True)
        if number < arguments.count:
            time.sleep(arguments.interval_s)
    try:
        producer.flush(timeout=30)
        for future in sent:
            future.get(timeout=0)
    except KafkaError as error:
        print(f"orders: not every order reached Kafka: {error!r}", file=sys.stderr)
        return 1
    finally:
        producer.close(timeout=5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
