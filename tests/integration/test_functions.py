"""Functions, spans of OpenTelemetry's and records of an unchanged application in one trace in Zipkin."""

from __future__ import annotations

import uuid
from typing import Any

from servers import KafkaServer, ZipkinServer
from support.deployment import Deployment, python

ORDERS = 5

HANDLERS = """
import json
import sqlite3

from kafka import KafkaProducer
from opentelemetry import trace

tracer = trace.get_tracer("pricing")


def parse(record):
    return json.loads(record.value)


def price(order):
    with tracer.start_as_current_span("ask the price"):
        connection = sqlite3.connect(":memory:")
        (found,) = connection.cursor().execute("SELECT 42").fetchone()
        connection.close()
    return {**order, "price": found}


class Shipping:
    def __init__(self, servers, topic):
        self.producer = KafkaProducer(bootstrap_servers=servers)
        self.topic = topic

    def handle(self, record):
        order = price(parse(record))
        self.producer.send(self.topic, json.dumps(order).encode()).get(30)


async def archive(records):
    return len(records)
"""

WORKER = """
import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor

from kafka import KafkaConsumer
from opentelemetry.instrumentation.kafka import KafkaInstrumentor
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor

from depot import handlers

servers, source, target, count = sys.argv[1:]
KafkaInstrumentor().instrument()
SQLite3Instrumentor().instrument()
shipping = handlers.Shipping(servers, target)
consumer = KafkaConsumer(source, bootstrap_servers=servers, auto_offset_reset="earliest", group_id=target)
records = []
with ThreadPoolExecutor(2) as pool:
    for record in consumer:
        records.append(record)
        pool.submit(shipping.handle, record)
        if len(records) == int(count):
            break
print(asyncio.run(handlers.archive(records)))
consumer.close()
"""

SENDER = """
import sys
from kafka import KafkaProducer
servers, topic, count = sys.argv[1:]
producer = KafkaProducer(bootstrap_servers=servers)
for number in range(int(count)):
    producer.send(topic, b'{"order": %d}' % number).get(30)
producer.close()
"""

SETTINGS = """
interceptor:
  functions:
    - {call: "depot.handlers:parse", name: parse}
    - {call: "depot.handlers:price"}
    - {call: "depot.handlers:Shipping.handle", name: ship}
    - {call: "depot.handlers:archive"}
"""


def test_functions_and_spans_of_opentelemetrys_are_in_the_trace_of_their_record(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """Each order is one trace: sent, processed, shipped in a pool of threads by named functions, in one of
    which an instrumentation and a span made by hand nest, and sent on; with one warning of the peer.
    """
    run = uuid.uuid4().hex[:8]
    source, target = f"orders.{run}", f"priced.{run}"
    kafka.create_topics(source, target)
    (deployment.directory / "depot").mkdir()
    (deployment.directory / "depot" / "__init__.py").touch()
    (deployment.directory / "depot" / "handlers.py").write_text(HANDLERS)
    (deployment.directory / "worker.py").write_text(WORKER)
    (deployment.directory / "kaspan.yaml").write_text(SETTINGS)
    sender, worker = f"sender-{run}", f"worker-{run}"

    deployment.start_agent("--zipkin", zipkin.url)
    common = (kafka.bootstrap_servers, source)
    deployment.start_traced(sender, *python("-c", SENDER, *common, str(ORDERS))).finish()
    working = deployment.start_traced(
        worker,
        *python("worker.py", *common, target, str(ORDERS)),
        KASPAN_CONFIG=str(deployment.directory / "kaspan.yaml"),
    )
    assert working.finish() == f"{ORDERS}\n"
    assert [line.partition(";")[0] for line in working.stderr.splitlines()] == [
        "kaspan: opentelemetry-instrumentation-kafka-python is switched on too"
    ]

    zipkin.wait_for_spans(worker, 7 * ORDERS + 1)
    sent = zipkin.spans(sender)
    assert len(sent) == len({span["traceId"] for span in sent}) == ORDERS
    batches = []
    for root in sent:
        spans = zipkin.trace(root["traceId"])
        batches += [span for span in spans if span["name"] == "archive"]
        named = {span["name"]: span for span in spans if span["name"] != "archive"}
        assert chain(named) == {
            f"send {source}": None,
            f"process {source}": f"send {source}",
            "ship": f"process {source}",
            "parse": "ship",
            "price": "ship",
            "ask the price": "price",
            "select": "ask the price",
            f"send {target}": "ship",
        }
        assert {span["localEndpoint"]["serviceName"] for span in spans} == {sender, worker}

    (batch,) = batches
    assert batch["tags"]["messaging.batch.message_count"] == str(ORDERS)
    others = batch["tags"]["kafka.batch.trace_ids"].split(",")
    assert {batch["traceId"], *others} == {span["traceId"] for span in sent}


def chain(named: dict[str, Any]) -> dict[str, str | None]:
    """Return each span's name with that of its parent."""
    names = {span["id"]: name for name, span in named.items()}
    return {name: names[span["parentId"]] if "parentId" in span else None for name, span in named.items()}
