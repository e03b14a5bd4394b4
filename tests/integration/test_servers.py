"""The harness itself: what the other tests here take for granted about their servers."""

from __future__ import annotations

import json
import time
import urllib.request
import uuid

import kafka as kafka_python

from servers import KafkaServer, ZipkinServer


def test_kafka_keeps_its_records_and_its_address_when_it_is_killed_and_restarted(kafka: KafkaServer) -> None:
    """A broker killed with SIGKILL and started again has the records it acknowledged, at the same address."""
    topic = f"kept-{uuid.uuid4().hex}"
    kafka.create_topics(topic, partitions=2)
    producer = kafka_python.KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all")
    sent = [producer.send(topic, b"%d" % number, partition=number % 2).get(30).offset for number in range(4)]
    producer.close()

    kafka.kill()
    kafka.restart()

    consumer = kafka_python.KafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=20_000,
    )
    records = [next(consumer) for _ in range(4)]
    consumer.close()
    assert sent == [0, 0, 1, 1]
    assert sorted(record.value for record in records) == [b"0", b"1", b"2", b"3"]


def test_zipkin_gives_back_the_spans_and_the_links_it_was_sent(zipkin: ZipkinServer) -> None:
    """A span posted to Zipkin is found by its service, by its trace and as a link of dependencies."""
    service = f"service-{uuid.uuid4().hex}"
    trace_id = uuid.uuid4().hex
    span = {
        "traceId": trace_id,
        "id": "00000000000000a1",
        "kind": "PRODUCER",
        "name": "send orders",
        "timestamp": time.time_ns() // 1000,
        "duration": 5,
        "localEndpoint": {"serviceName": service},
        "remoteEndpoint": {"serviceName": "kafka"},
    }
    request = urllib.request.Request(  # noqa: S310
        f"{zipkin.url}/api/v2/spans", json.dumps([span]).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        assert answer.status == 202

    assert zipkin.wait_for_spans(service, 1) == [span]
    assert zipkin.trace(trace_id) == [span]
    assert zipkin.trace(uuid.uuid4().hex) == []
    assert zipkin.dependencies()[service, "kafka"] == 1
