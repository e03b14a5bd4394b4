"""Three unchanged applications on real Kafka, seen through Zipkin's API."""

from __future__ import annotations

from typing import Any

import pytest

from servers import Servers, ZipkinServer
from servers.zipkin import Span
from support.deployment import Deployment
from support.order_flow import OrderFlow, order_number, trace_context

ORDERS = 10
SPANS_PER_ORDER = 4


class Traced:
    """A finished run: the shop, its records by order, and for each order its spans by name."""

    def __init__(self, shop: OrderFlow, zipkin: ZipkinServer) -> None:
        self.shop = shop
        self.zipkin = zipkin
        self.orders = {order_number(record): record for record in shop.orders()}
        self.shipments = {order_number(record): record for record in shop.shipments()}
        self.traces = {
            number: {span["name"]: span for span in zipkin.trace(trace_context(record)[0])}
            for number, record in self.orders.items()
        }

    def spans(self, number: int) -> tuple[Span, Span, Span, Span]:
        """Return an order's spans in the order in which they began to exist."""
        spans = self.traces[number]
        return (
            spans[f"send {self.shop.orders_topic}"],
            spans[f"process {self.shop.orders_topic}"],
            spans[f"send {self.shop.shipments_topic}"],
            spans[f"process {self.shop.shipments_topic}"],
        )


@pytest.fixture(scope="module")
def traced(started_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    """Run the shop and the agent once, until every span is in Zipkin."""
    started_servers.start({"kafka", "zipkin"})
    zipkin = started_servers.zipkin()
    shop = OrderFlow(started_servers.kafka(), ORDERS, partitions=2)
    deployment = Deployment(tmp_path_factory.mktemp("traced"))
    try:
        deployment.start_agent("--zipkin", zipkin.url)
        for application in shop.open(deployment):
            application.finish()
        zipkin.wait_for_spans(shop.services.orders, ORDERS)
        zipkin.wait_for_spans(shop.services.shipping, 2 * ORDERS)
        zipkin.wait_for_spans(shop.services.mailer, ORDERS)
    finally:
        deployment.close()
    return Traced(shop, zipkin)


def test_trace_of_an_order_has_exactly_its_four_spans(traced: Traced) -> None:
    """Each order is one trace of its own: send and process of the order, send and process of the shipment."""
    orders, shipments = traced.shop.orders_topic, traced.shop.shipments_topic
    expected = {f"send {orders}", f"process {orders}", f"send {shipments}", f"process {shipments}"}
    trace_ids = {trace_context(record)[0] for record in traced.orders.values()}

    assert len(trace_ids) == ORDERS
    for trace_id in trace_ids:
        spans = traced.zipkin.trace(trace_id)
        assert len(spans) == SPANS_PER_ORDER
        assert {span["name"] for span in spans} == expected


def test_spans_of_an_order_are_a_chain_of_parents(traced: Traced) -> None:
    """The send of the order is the root, and each of the others is the child of the one before it."""
    for number in traced.orders:
        root, *others = traced.spans(number)
        assert "parentId" not in root
        parents = [root, *others][:-1]
        assert [span["parentId"] for span in others] == [span["id"] for span in parents]


def test_records_carry_the_context_of_the_span_that_sent_them(traced: Traced) -> None:
    """A record's b3 header names the trace and the send span that Zipkin has."""
    for number in traced.orders:
        sent_order, _, sent_shipment, _ = traced.spans(number)
        assert trace_context(traced.orders[number]) == (sent_order["traceId"], sent_order["id"])
        assert trace_context(traced.shipments[number]) == (sent_shipment["traceId"], sent_shipment["id"])


def test_spans_say_who_did_what_with_whom(traced: Traced) -> None:
    """Kinds alternate between PRODUCER and CONSUMER, each by its service, and the other side is kafka."""
    services = traced.shop.services
    expected = [
        ("PRODUCER", services.orders),
        ("CONSUMER", services.shipping),
        ("PRODUCER", services.shipping),
        ("CONSUMER", services.mailer),
    ]
    for number in traced.orders:
        spans = traced.spans(number)
        assert [(span["kind"], span["localEndpoint"]["serviceName"]) for span in spans] == expected
        assert {span["remoteEndpoint"]["serviceName"] for span in spans} == {"kafka"}


def test_spans_name_the_record_by_topic_partition_offset_and_key(traced: Traced) -> None:
    """Both spans of a record carry the very topic, partition, offset and key it has in Kafka."""
    for number in traced.orders:
        spans = traced.spans(number)
        order, shipment = traced.orders[number], traced.shipments[number]
        for span, record in zip(spans, (order, order, shipment, shipment), strict=True):
            assert place(span["tags"]) == {
                "kafka.topic": record.topic,
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": str(record.offset),
                "kafka.key": record.key.decode(),
            }


def place(tags: dict[str, str]) -> dict[str, str]:
    named = ("kafka.topic", "messaging.destination.", "messaging.kafka.offset", "kafka.key")
    return {key: value for key, value in tags.items() if key.startswith(named)}


def test_spans_carry_opentelemetrys_names_for_the_operation_and_the_group(traced: Traced) -> None:
    """Every span says messaging.system and the operation; a consumer's says its group; none says error."""
    services = traced.shop.services
    for number in traced.orders:
        tags: list[dict[str, Any]] = [span["tags"] for span in traced.spans(number)]
        assert {tag["messaging.system"] for tag in tags} == {"kafka"}
        assert [tag["messaging.operation.name"] for tag in tags] == ["send", "process", "send", "process"]
        assert tags[1]["messaging.consumer.group.name"] == services.shipping
        assert tags[3]["messaging.consumer.group.name"] == services.mailer
        assert not any("error" in tag for tag in tags)


def test_spans_of_an_order_are_in_causal_order(traced: Traced) -> None:
    """No span begins before its cause, and the shipment is acknowledged while its order is in process."""
    for number in traced.orders:
        spans = traced.spans(number)
        begins = [span["timestamp"] for span in spans]
        assert begins == sorted(begins)
        processed, sent = spans[1], spans[2]
        assert sent["timestamp"] + sent["duration"] <= processed["timestamp"] + processed["duration"]


def test_dependencies_draw_the_way_of_the_orders_through_kafka(traced: Traced) -> None:
    """Zipkin's links go orders -> kafka -> shipping -> kafka -> mailer, one call for each order on each."""
    orders, shipping, mailer = services = traced.shop.services
    ours = {link: calls for link, calls in traced.zipkin.dependencies().items() if set(link) & set(services)}

    assert ours == {
        (orders, "kafka"): ORDERS,
        ("kafka", shipping): ORDERS,
        (shipping, "kafka"): ORDERS,
        ("kafka", mailer): ORDERS,
    }
