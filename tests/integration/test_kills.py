"""No recorded span is lost, whichever process is killed or unreachable."""

from __future__ import annotations

import uuid
from pathlib import Path

from servers import KafkaServer, ZipkinServer
from servers.zipkin import Span
from support.deployment import Deployment, python
from support.order_flow import OrderFlow, trace_context

RECORDS = 5_000
KILLED_AFTER = (1_000, 2_500, 4_000)
DOWN_ORDERS = 200
ARRIVAL_DEADLINE_S = 90.0

KILLED_PRODUCER = """
import os, signal, sys
from kafka import KafkaProducer
producer = KafkaProducer(bootstrap_servers=sys.argv[1])
for number in range(20):
    producer.send(sys.argv[2], b"%d" % number).get(timeout=30)
os.kill(os.getpid(), signal.SIGKILL)
"""

KILLED_CONSUMER = """
import os, signal, sys
from kafka import KafkaConsumer
consumer = KafkaConsumer(sys.argv[2], bootstrap_servers=sys.argv[1], auto_offset_reset="earliest")
for record in consumer:
    if record.value == b"19":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def missing_spans(shop: OrderFlow, orders: list[Span], shipping: list[Span], mailer: list[Span]) -> list[str]:
    """Compare what the records in Kafka say was traced with what arrived, and name what did not.

    Each record carries the id of the span that sent it, and that span must have one child that processed it.
    """
    sent = {span["id"] for span in orders + shipping if span["kind"] == "PRODUCER"}
    processed = {span["parentId"] for span in shipping + mailer if span["kind"] == "CONSUMER"}
    missing = []
    for record in shop.orders() + shop.shipments():
        _, span_id = trace_context(record)
        for name, found in (("send", sent), ("process", processed)):
            if span_id not in found:
                missing.append(f"{name} {record.topic}[{record.partition}]@{record.offset}")
    return missing


def wait_for_shop(shop: OrderFlow, zipkin: ZipkinServer) -> tuple[list[Span], list[Span], list[Span]]:
    """Block until as many spans are in Zipkin as the shop made, and return them by service."""
    return (
        zipkin.wait_for_spans(shop.services.orders, shop.count, ARRIVAL_DEADLINE_S),
        zipkin.wait_for_spans(shop.services.shipping, 2 * shop.count, ARRIVAL_DEADLINE_S),
        zipkin.wait_for_spans(shop.services.mailer, shop.count, ARRIVAL_DEADLINE_S),
    )


def test_agent_killed_three_times_during_5000_records_loses_no_span(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """With the agent killed by SIGKILL three times in a run, each record's send and process span arrives."""
    shop = OrderFlow(kafka, RECORDS)
    agent = deployment.start_agent("--zipkin", zipkin.url)
    orders, shipping, mailer = shop.open(deployment)
    for lines in KILLED_AFTER:
        shipping.wait_for_lines(lines)
        assert agent.process.poll() is None
        agent.kill()
        agent = deployment.start_agent("--zipkin", zipkin.url)
    for application in (orders, shipping, mailer):
        application.finish()

    arrived = wait_for_shop(shop, zipkin)

    assert missing_spans(shop, *arrived) == []
    assert [len({span["id"] for span in spans}) for spans in arrived] == [RECORDS, 2 * RECORDS, RECORDS]


def test_producer_killed_after_its_last_acknowledgement_loses_no_span(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """An application that dies by SIGKILL when Kafka has its last record leaves every send span."""
    service, topic = f"killed-{uuid.uuid4().hex}", f"killed.{uuid.uuid4().hex}"
    application = deployment.start_traced(
        service, *python("-c", KILLED_PRODUCER, kafka.bootstrap_servers, topic)
    )
    assert application.wait() == -9, application.stderr
    deployment.start_agent("--zipkin", zipkin.url)

    spans = zipkin.wait_for_spans(service, 20)

    assert sorted(int(span["tags"]["messaging.kafka.offset"]) for span in spans) == list(range(20))
    assert not any("error" in span["tags"] for span in spans)


def test_consumer_killed_in_its_loop_leaves_the_spans_of_the_records_before(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """A consumer that dies by SIGKILL while it works on a record has left a span of each record before it."""
    service, topic = f"killed-{uuid.uuid4().hex}", f"killed.{uuid.uuid4().hex}"
    deployment.start("plain", *python("-c", KILLED_PRODUCER, kafka.bootstrap_servers, topic)).wait()
    application = deployment.start_traced(
        service, *python("-c", KILLED_CONSUMER, kafka.bootstrap_servers, topic)
    )
    assert application.wait() == -9, application.stderr
    deployment.start_agent("--zipkin", zipkin.url)

    spans = zipkin.wait_for_spans(service, 19)

    assert sorted(int(span["tags"]["messaging.kafka.offset"]) for span in spans) == list(range(19))


def test_rings_of_the_dead_are_removed_once_they_are_read(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """The agent unlinks the ring of an application that is gone, so that a directory does not fill up."""
    service, topic = f"killed-{uuid.uuid4().hex}", f"killed.{uuid.uuid4().hex}"
    deployment.start_traced(service, *python("-c", KILLED_PRODUCER, kafka.bootstrap_servers, topic)).wait()
    assert len(rings(deployment.ring_dir)) == 1
    agent = deployment.start_agent("--zipkin", zipkin.url)
    zipkin.wait_for_spans(service, 20)
    assert agent.terminate() == 0, agent.stderr

    assert rings(deployment.ring_dir) == []


def rings(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.suffix == ".ring"]


def test_zipkin_down_for_the_whole_run_gets_every_span_when_it_is_back(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """With no Zipkin during the run the applications do all they did, and each span arrives once it is up."""
    shop = OrderFlow(kafka, DOWN_ORDERS)
    zipkin.stop()
    agent = deployment.start_agent("--zipkin", zipkin.url)
    outputs = [application.finish() for application in shop.open(deployment)]
    assert [output.count("\n") for output in outputs] == [DOWN_ORDERS] * 3
    assert agent.process.poll() is None, agent.stderr
    zipkin.restart()

    arrived = wait_for_shop(shop, zipkin)

    assert missing_spans(shop, *arrived) == []


def test_spans_survive_an_agent_that_stops_while_zipkin_is_down(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """An agent ended by SIGTERM while Zipkin is down keeps its spans, and the next agent delivers them."""
    shop = OrderFlow(kafka, DOWN_ORDERS)
    zipkin.stop()
    agent = deployment.start_agent("--zipkin", zipkin.url, KASPAN_AGENT__SHUTDOWN_TIMEOUT_S="0.5")
    for application in shop.open(deployment):
        application.finish()
    assert agent.terminate() == 0, agent.stderr
    zipkin.restart()
    deployment.start_agent("--zipkin", zipkin.url)

    arrived = wait_for_shop(shop, zipkin)

    assert missing_spans(shop, *arrived) == []
