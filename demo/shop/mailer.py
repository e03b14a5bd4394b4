"""Tell customers: read `shipments` and write a line to each customer.

One of the demo's three applications: plain kafka-python, without a line for tracing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer


class Announce(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python 2.x ships no types
    """Prints a line when the consumer has partitions to read."""

    def on_partitions_assigned(self, assigned: Any) -> None:
        """Print the line."""
        if assigned:
            print("mailer: waiting for shipments", file=sys.stderr, flush=True)

    def on_partitions_revoked(self, revoked: Any) -> None:
        """Do nothing: each record is finished before the next is requested."""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="mailer", description="Tell customers about their shipments.")
    parser.add_argument("--kafka", default="127.0.0.1:9092", metavar="HOST:PORT")
    parser.add_argument("--topic", default="shipments")
    parser.add_argument("--group", default="mailer")
    parser.add_argument("--count", type=int, default=0, help="end after so many shipments; 0 means never")
    parser.add_argument("--idle-timeout-s", type=float, default=30.0, help="end if none comes for so long")
    parser.add_argument("--work-s", type=float, default=0.005, help="how long writing a mail takes")
    parser.add_argument("--mock", action="store_true", help="the broker is librdkafka's mock cluster")
    return parser.parse_args()


def connect(arguments: argparse.Namespace) -> Any:
    """Make the consumer.

    The mock cluster speaks the protocol of Kafka 2.3 and does not answer a waiting fetch when a record comes.
    """
    settings: dict[str, object] = {}
    if arguments.mock:
        settings = {"api_version": (2, 3), "fetch_max_wait_ms": 20}
    consumer = KafkaConsumer(
        bootstrap_servers=arguments.kafka,
        group_id=arguments.group,
        auto_offset_reset="earliest",
        consumer_timeout_ms=int(arguments.idle_timeout_s * 1000),
        **settings,
    )
    if arguments.mock:
        # kafka-python 3.0 may lose a subscription during its connecting, and join without partitions.
        consumer.topics()
    consumer.subscribe([arguments.topic], listener=Announce())
    return consumer


def main() -> int:
    """Mail until no more shipments come; 1 if fewer than --count came."""
    arguments = parse_arguments()
    consumer = connect(arguments)
    done = 0
    try:
        for record in consumer:
            shipment = json.loads(record.value)
            time.sleep(arguments.work_s)
            pieces = len(shipment["labels"])
            print(
                f"order {shipment['order']}: dear {shipment['customer']}, "
                f"{pieces} x {shipment['item']} on the way",
                flush=True,
            )
            done += 1
            if done == arguments.count:
                break
    finally:
        consumer.close()
    if done < arguments.count:
        print(f"mailer: only {done} of {arguments.count} shipments came", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
