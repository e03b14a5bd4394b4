"""`kaspan demo` on servers that somebody else uses as well."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from kafka import KafkaProducer, TopicPartition
from kafka.consumer import KafkaConsumer

from servers import KafkaServer, ZipkinServer
from support.waiting import wait_until

DEADLINE_S = 120


def start_demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kaspan.cli.main", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


def run_demo(tmp_path: Path, *arguments: str) -> str:
    process = start_demo(tmp_path, *arguments)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    kept = [] if "--zipkin" in arguments else [tmp_path / f"kaspan-demo-{os.geteuid()}"]
    assert list(tmp_path.iterdir()) == kept
    return out


def topics(kafka: KafkaServer) -> set[str]:
    return set(AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=10).topics)


def test_demo_prints_links_that_lead_to_the_traces(
    kafka: KafkaServer, zipkin: ZipkinServer, tmp_path: Path
) -> None:
    """With --kafka and --zipkin the demo prints a link for each order, and its trace is there, whole."""
    before = topics(kafka)
    out = run_demo(tmp_path, "--kafka", kafka.bootstrap_servers, "--zipkin", zipkin.url)
    links = re.findall(re.escape(zipkin.url) + r"/zipkin/traces/([0-9a-f]{32})", out)
    assert [len(zipkin.trace(trace_id)) for trace_id in links] == [4, 4, 3]
    wait_until(lambda: topics(kafka) <= before | {"__consumer_offsets"}, "the demo's topics are gone", 30)


def test_demo_with_zipkin_alone_runs_on_the_mock(zipkin: ZipkinServer, tmp_path: Path) -> None:
    """With --zipkin alone Kafka is the embedded mock, and the traces are in Zipkin."""
    out = run_demo(tmp_path, "--zipkin", zipkin.url, "--orders", "1")
    assert "a mock of Kafka" in out
    (trace_id,) = re.findall(re.escape(zipkin.url) + r"/zipkin/traces/([0-9a-f]{32})", out)
    assert len(zipkin.trace(trace_id)) == 4


@pytest.fixture
def orders_topic(kafka: KafkaServer) -> str:
    """Somebody's own topic `orders`, with one record in it."""
    producer = KafkaProducer(bootstrap_servers=kafka.bootstrap_servers)
    producer.send("orders", b"a real order").get(timeout=30)
    producer.close()
    return "orders"


def end_offset(kafka: KafkaServer, topic: str) -> int:
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    partition = TopicPartition(topic, 0)
    offset: int = consumer.end_offsets([partition])[partition]
    consumer.close()
    return offset


def test_demo_leaves_an_existing_topic_alone(kafka: KafkaServer, orders_topic: str, tmp_path: Path) -> None:
    """Where a topic `orders` exists already, the demo takes other names and deletes only those."""
    before = end_offset(kafka, orders_topic)
    out = run_demo(tmp_path, "--kafka", kafka.bootstrap_servers)
    assert re.search(r"send demo-[0-9a-f]{6}-orders", out)
    assert end_offset(kafka, orders_topic) == before
    wait_until(
        lambda: not [t for t in topics(kafka) if t.startswith("demo-")], "the demo's topics are gone", 30
    )


def test_interrupted_demo_deletes_its_topics(kafka: KafkaServer, orders_topic: str, tmp_path: Path) -> None:
    """Ctrl-C in the middle leaves no topic behind on the real broker."""
    process = start_demo(tmp_path, "--kafka", kafka.bootstrap_servers)
    assert process.stdout is not None
    assert "Kafka on" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 130, err
    wait_until(
        lambda: not [t for t in topics(kafka) if t.startswith("demo-")], "the demo's topics are gone", 30
    )
