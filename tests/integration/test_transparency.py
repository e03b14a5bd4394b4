"""What applications do under kaspan is what they do without it."""

from __future__ import annotations

from typing import Any

from servers import KafkaServer
from support.deployment import Deployment
from support.order_flow import OrderFlow

ORDERS = 10


def content(record: Any) -> tuple[Any, ...]:
    return record.partition, record.offset, record.key, record.value


def test_applications_write_the_same_output_and_the_same_records_without_kaspan(
    kafka: KafkaServer, deployment: Deployment
) -> None:
    """The three applications print the same and write the same records, but for one b3 header in each."""
    plain, traced = OrderFlow(kafka, ORDERS), OrderFlow(kafka, ORDERS)
    plain_run = plain.open(deployment, traced=False)
    plain_output = [application.finish() for application in plain_run]
    traced_run = traced.open(deployment)
    traced_output = [application.finish() for application in traced_run]

    assert traced_output == plain_output
    assert [run.stderr for run in traced_run] == [run.stderr for run in plain_run]
    for plain_records, traced_records in (
        (plain.orders(), traced.orders()),
        (plain.shipments(), traced.shipments()),
    ):
        assert len(plain_records) == ORDERS
        assert [content(record) for record in traced_records] == [content(record) for record in plain_records]
        assert [record.headers for record in plain_records] == [[]] * ORDERS
        assert [[key for key, _ in record.headers] for record in traced_records] == [["b3"]] * ORDERS
