"""Real clients of a real protocol in processes that fork, end early or are killed; and spans by HTTP."""

from __future__ import annotations

import socket
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.deployment import KASPAN, Deployment, python
from support.ring_reader import RingReader, Span, offsets
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub

PRODUCER = """
import os, sys
from kafka import KafkaConsumer, KafkaProducer
def make_producer():
    settings = {"bootstrap_servers": sys.argv[1], "api_version": (2, 3)}
    if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
        settings["enable_idempotence"] = False
    return KafkaProducer(**settings)
producer = make_producer()
"""
IN_FLIGHT = PRODUCER + "for number in range(200): producer.send(sys.argv[2], b'%d' % number, partition=0)\n"
FORKING = (
    PRODUCER
    + """
producer.send(sys.argv[2], b"parent", partition=0).get(timeout=30)
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        own = make_producer()
        for number in range(50): own.send(sys.argv[2], b"child", partition=0)
        own.close(timeout=30)
        os._exit(0)
    pids.append(pid)
print(*(os.waitpid(pid, 0)[1] for pid in pids))
producer.send(sys.argv[2], b"parent", partition=0).get(timeout=30)
"""
)
CONSUMER = """
from kafka import TopicPartition
consumer = KafkaConsumer(bootstrap_servers=sys.argv[1], api_version=(2, 3), auto_offset_reset="earliest")
consumer.assign([TopicPartition(sys.argv[2], 0)])
for record in consumer:
    print(record.offset, flush=True)
    if record.offset == 99: {end}
"""


@pytest.fixture
def topic() -> str:
    return f"topic-{uuid.uuid4().hex}"


@pytest.fixture
def zipkin() -> Iterator[ZipkinStub]:
    """Give what the agent delivers to."""
    made = ZipkinStub()
    yield made
    made.close()


def spans_of(deployment: Deployment, kind: str) -> list[Span]:
    return [span for span in RingReader(deployment.ring_dir).take() if span.kind == kind]


def test_sends_in_flight_at_the_end_are_recorded(deployment: Deployment, broker: str, topic: str) -> None:
    """A program that ends without flush or close leaves a span, with its offset, for each record sent."""
    application = deployment.start_traced("shop", *python("-c", IN_FLIGHT, broker, topic))
    application.finish()

    assert application.stderr == ""
    assert sorted(offsets(spans_of(deployment, "PRODUCER"))) == list(range(200))


def test_children_with_producers_of_their_own_are_recorded(
    deployment: Deployment, broker: str, topic: str
) -> None:
    """A parent's and three children's sends are one span each, and the broker's offsets are all there."""
    application = deployment.start_traced("shop", *python("-W", "ignore", "-c", FORKING, broker, topic))

    assert application.finish() == "0 0 0\n"
    assert sorted(offsets(spans_of(deployment, "PRODUCER"))) == list(range(152))
    assert len(list(deployment.ring_dir.glob("*.ring"))) == 4


@pytest.mark.parametrize(
    ("end", "code"),
    [("break", 0), ("sys.exit(3)", 3), ("os._exit(4)", 4), ("os.kill(os.getpid(), 15)", -15)],
)
def test_consumer_that_is_alive_at_the_end_has_recorded_what_it_finished(
    end: str, code: int, deployment: Deployment, broker: str, topic: str
) -> None:
    """Whether its loop was left or cut short, each record whose work was done has its one span."""
    deployment.start("plain", *python("-c", IN_FLIGHT, broker, topic)).finish()
    application = deployment.start_traced(
        "depot", *python("-c", PRODUCER + CONSUMER.format(end=end), broker, topic)
    )
    assert application.wait() == code

    finished = 100 if end in ("break", "sys.exit(3)") else 99
    assert offsets(spans_of(deployment, "CONSUMER")) == list(range(finished))


STEPS = """
import sys
from support.kafka_clients import UnconnectedProducer
producer = UnconnectedProducer()
for line in sys.stdin:
    for _ in range(10):
        producer.send("orders", b"value"); producer.last.acknowledge()
"""


@pytest.fixture(params=["tcp", "unix"])
def ways(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, str], str]:
    """Give what makes an agent listen, and the address that makes an application report there."""
    if request.param == "unix":
        return {"KASPAN_AGENT__SOCKET": f"{tmp_path}/agent.sock"}, f"unix://{tmp_path}/agent.sock"
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    return {"KASPAN_AGENT__LISTEN": listen}, f"http://{listen}"


@pytest.fixture
def application(deployment: Deployment, ways: tuple[dict[str, str], str]) -> Iterator[subprocess.Popen[str]]:
    """Give an application that sends ten records for each line it is given, and reports by HTTP."""
    tests = str(Path(__file__).parents[1])
    started = subprocess.Popen(
        [str(KASPAN), "run", "--", *python("-c", STEPS)],
        env={**deployment.environment, "KASPAN_INTERCEPTOR__AGENT": ways[1], "PYTHONPATH": tests},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield started
    started.kill()
    started.communicate()


def test_spans_by_http_outlast_an_agent_that_comes_late_and_is_killed(
    deployment: Deployment,
    zipkin: ZipkinStub,
    ways: tuple[dict[str, str], str],
    application: subprocess.Popen[str],
) -> None:
    """Spans reported to an agent that is not there yet, to one that is killed, and at the end arrive."""
    assert application.stdin is not None

    def ten_more() -> None:
        application.stdin.write("\n")  # type: ignore[union-attr]
        application.stdin.flush()  # type: ignore[union-attr]

    def arrived(spans: int) -> bool:
        return len(zipkin.stored) == spans

    ten_more()
    agent = deployment.start_agent("--zipkin", zipkin.url, **ways[0])
    wait_until(lambda: arrived(10), "the first ten are in Zipkin")
    agent.kill()
    at_its_death = set(
        zipkin.stored
    )  # which it may deliver again, since it was not told in time to forget them
    ten_more()
    deployment.start_agent("--zipkin", zipkin.url, **ways[0])
    wait_until(lambda: arrived(20), "twenty are in Zipkin")
    ten_more()
    _, said = application.communicate()
    wait_until(lambda: arrived(30), "all are in Zipkin")

    assert {times for span_id, times in zipkin.stored.items() if span_id not in at_its_death} == {1}
    assert said.count("kaspan:") <= 1  # that the agent was away, if a report was tried meanwhile
