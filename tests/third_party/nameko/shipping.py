"""A service of a user of nameko-kafka: its workers are green threads of eventlet."""

import os

from nameko_kafka import KafkaProducer, consume

RUN = os.environ["RUN"]


class Shipping:
    name = "shipping"
    producer = KafkaProducer(bootstrap_servers=os.environ["KAFKA"])

    @consume(
        RUN + "-orders",
        group_id="shipping",
        bootstrap_servers=os.environ["KAFKA"],
        auto_offset_reset="earliest",
    )
    def ship(self, order):
        self.producer.send(RUN + "-shipments", value=b"shipped " + order.value).get(30)
