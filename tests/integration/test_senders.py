"""Each way out of the agent, seen in a real Zipkin: every field of every span as if sent there directly."""

from __future__ import annotations

import http.client
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import kafka as kafka_python
import pytest

from kaspan.wire.span import SPANS_PATH
from servers import KafkaServer, ZipkinServer
from servers.kafka import SASL_PASSWORD, SASL_USER
from servers.process import free_port
from support.certificates import CA, server_context
from support.deployment import Deployment
from support.poison import HARMLESS, POISON
from support.process import RunningProcess
from support.ring_writer import RingWriter
from support.ring_writer import span as ring_span
from support.span_bodies import BODIES, TRACE_ID
from support.waiting import wait_until
from support.zipkin_stub import Report, Response, ZipkinStub

TOKEN = "let-me-in-please"
# Java and Python put different numbers of U+FFFD where these bytes are.
NOT_TEXT = "UTF-8 of a surrogate"
COMPARABLE = {
    name: body
    for name, body in BODIES.items()
    if body.accepted
    and name != NOT_TEXT
    and not body.content_encoding
    and (TRACE_ID.encode() in body.content or bytes.fromhex(TRACE_ID) in body.content)
}
ENDS_THE_LIST = POISON["end of the list"]
Spans = list[dict[str, Any]]


class Agent:
    """An agent with these senders, and what it and Zipkin are given."""

    def __init__(self, deployment: Deployment, senders: list[dict[str, object]]) -> None:
        self._deployment = deployment
        self.address = f"127.0.0.1:{free_port()}"
        self.running = self._start(senders)

    def _start(self, senders: list[dict[str, object]]) -> RunningProcess:
        settings = {"KASPAN_AGENT__SENDERS": json.dumps(senders)}
        running = self._deployment.start_agent("--listen", self.address, **settings)
        wait_until(lambda: "listens on" in running.stderr, "the agent listens")
        return running

    def command(self, *arguments: str) -> str:
        """Run a command while the agent runs, and return what it printed."""
        kaspan = [sys.executable, "-m", "kaspan.cli.main", "agent"]
        return self._deployment.start(arguments[0], *kaspan, *arguments).finish()


def post(address: str, content: bytes, headers: Mapping[str, str]) -> tuple[int, str]:
    """Post a body; the status of the answer and its text."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("POST", SPANS_PATH, content, headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def report(address: str, *spans: Mapping[str, object]) -> None:
    """Report spans as JSON, and be told that they are taken."""
    status, text = post(address, json.dumps(spans).encode(), {"Content-Type": "application/json"})
    assert status == 202, text


def stored(zipkin: ZipkinServer, trace_id: str) -> Spans:
    """Return what Zipkin has of a trace, without the trace's own id, in an order of its own."""
    spans: Spans = wait_until(lambda: zipkin.trace(trace_id), f"trace {trace_id} is in Zipkin")
    return sorted(({**span, "traceId": ""} for span in spans), key=json.dumps)


def assert_same(zipkin: ZipkinServer, agent: Agent) -> None:
    """Report each comparable body to both, under traces of their own; Zipkin has the same of them."""
    traces: dict[str, tuple[str, str]] = {}
    for name, body in COMPARABLE.items():
        traces[name] = uuid.uuid4().hex, uuid.uuid4().hex
        addresses = urlsplit(zipkin.url).netloc, agent.address
        for address, trace_id in zip(addresses, traces[name], strict=True):
            content = body.content.replace(TRACE_ID.encode(), trace_id.encode())
            content = content.replace(bytes.fromhex(TRACE_ID), bytes.fromhex(trace_id))
            assert post(address, content, body.headers) == (202, "")
    assert len(traces) > 20
    for name, (direct, through_agent) in traces.items():
        assert stored(zipkin, through_agent) == stored(zipkin, direct), name
    assert agent.running.terminate() == 0, agent.running.stderr
    assert "refuses" not in agent.running.stderr
    assert "Traceback" not in agent.running.stderr


@pytest.fixture
def https(zipkin: ZipkinServer) -> Iterator[ZipkinStub]:
    """Give a proxy before Zipkin that speaks HTTPS and wants a token."""

    def forward(report: Report) -> Response:
        if report.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Response(401)
        headers = {k: v for k, v in report.headers.items() if k.startswith("Content-")}
        return Response(*post(urlsplit(zipkin.url).netloc, report.body, headers))

    proxy = ZipkinStub(forward, tls=server_context())
    yield proxy
    proxy.close()


@pytest.mark.parametrize(("format_", "gzip"), [("json", True), ("proto3", False)])
def test_zipkin_has_through_https_what_it_would_have_been_sent(
    zipkin: ZipkinServer, https: ZipkinStub, deployment: Deployment, format_: str, gzip: bool
) -> None:
    """In either format, packed or not, over TLS with a token."""
    sender: dict[str, object] = {"type": "zipkin", "url": https.url, "ca_file": str(CA), "token": TOKEN}
    assert_same(zipkin, Agent(deployment, [{**sender, "format": format_, "gzip": gzip}]))
    kinds = {report.headers["Content-Type"] for report in https.reports}
    # What proto3 cannot express goes as JSON.
    assert ("application/x-protobuf" in kinds) is (format_ == "proto3")
    assert {report.headers.get("Content-Encoding") for report in https.reports} == {"gzip" if gzip else None}


def test_wrong_token_loses_nothing(zipkin: ZipkinServer, https: ZipkinStub, deployment: Deployment) -> None:
    """A mistake in the settings is said, and the next start delivers what was taken."""
    wrong = {"type": "zipkin", "url": https.url, "ca_file": str(CA), "token": "something-else"}
    agent = Agent(deployment, [wrong])
    trace_id = uuid.uuid4().hex
    report(agent.address, {"traceId": trace_id, "id": "1"})
    wait_until(lambda: "401" in agent.running.stderr, "the failure is said")
    assert agent.running.terminate() == 0
    assert "something-else" not in agent.running.stderr
    Agent(deployment, [{**wrong, "token": TOKEN}])
    assert len(stored(zipkin, trace_id)) == 1


def test_zipkin_has_through_kafka_what_it_would_have_been_sent(
    kafka: KafkaServer, collecting_zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """Its collector reads from the topic every field of every span."""
    agent = Agent(deployment, [{"type": "kafka", "bootstrap_servers": [kafka.bootstrap_servers]}])
    assert_same(collecting_zipkin, agent)


def test_zipkin_has_what_went_to_kafka_through_tls_with_a_password(
    kafka: KafkaServer, collecting_zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """kafka-python gets its security settings as they are; with a wrong password spans wait."""
    settings = {
        "type": "kafka",
        "bootstrap_servers": [kafka.secure_bootstrap_servers],
        "timeout_s": 5.0,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": SASL_USER,
        "ssl_cafile": str(CA),
    }
    trace_id = uuid.uuid4().hex
    agent = Agent(deployment, [{**settings, "sasl_plain_password": "something-else"}])
    report(agent.address, {"traceId": trace_id, "id": "1"})
    wait_until(lambda: "spans wait in the spool" in agent.running.stderr, "the failure is said")
    agent.running.terminate()
    assert "something-else" not in agent.running.stderr
    Agent(deployment, [{**settings, "sasl_plain_password": SASL_PASSWORD}])
    assert len(stored(collecting_zipkin, trace_id)) == 1


def test_span_without_endpoint_and_tags_is_read_from_kafka(
    kafka: KafkaServer, collecting_zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """Alone in its message: what Zipkin would take for its first format, and drop."""
    agent = Agent(deployment, [{"type": "kafka", "bootstrap_servers": [kafka.bootstrap_servers]}])
    trace_id = uuid.uuid4().hex
    report(agent.address, {"traceId": trace_id, "id": "1", "name": "bare"})
    assert stored(collecting_zipkin, trace_id) == [{"traceId": "", "id": "0" * 15 + "1", "name": "bare"}]


def test_message_larger_than_the_topic_takes_is_split(
    kafka: KafkaServer, collecting_zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """The broker's limit is found by its refusals; only a span that is too large alone is a dead letter."""
    topic = "zipkin"
    senders = [
        {"type": "kafka", "bootstrap_servers": [kafka.bootstrap_servers], "max_message_bytes": 8_000_000}
    ]
    agent = Agent(deployment, senders)
    service = f"service-{uuid.uuid4().hex}"
    span = {"timestamp": time.time_ns() // 1000, "localEndpoint": {"serviceName": service}}
    spans = [
        {**span, "traceId": uuid.uuid4().hex, "id": "1", "tags": {"padding": "x" * size}}
        for size in (300_000, 300_000, 2_000_000, 300_000, 300_000)
    ]
    report(agent.address, *spans)
    assert len(collecting_zipkin.wait_for_spans(service, 4)) == 4
    listing = agent.command("dead-letter", "list")
    assert listing.count("\n") == 2, listing
    assert f"{kafka.bootstrap_servers}/{topic}" in listing
    assert "MessageSizeTooLarge" in listing


def test_broker_that_is_killed_loses_nothing(
    kafka: KafkaServer, zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """Spans taken before, while and after the broker is away all arrive, and the other sender goes on."""
    topic = f"spans-{uuid.uuid4().hex}"
    to_kafka = {
        "type": "kafka",
        "bootstrap_servers": [kafka.bootstrap_servers],
        "topic": topic,
        "timeout_s": 3.0,
    }
    agent = Agent(deployment, [to_kafka, {"type": "zipkin", "url": zipkin.url}])
    service = f"service-{uuid.uuid4().hex}"
    span = {"timestamp": time.time_ns() // 1000, "localEndpoint": {"serviceName": service}}
    ids = [uuid.uuid4().hex for _ in range(30)]

    def report_all(trace_ids: list[str]) -> None:
        for trace_id in trace_ids:
            report(agent.address, {**span, "traceId": trace_id, "id": "1"})

    report_all(ids[:10])
    zipkin.wait_for_spans(service, 10)
    kafka.kill()
    report_all(ids[10:20])
    wait_until(lambda: "spans wait in the spool" in agent.running.stderr, "the failure is said")
    zipkin.wait_for_spans(service, 20)
    kafka.restart()
    report_all(ids[20:])
    zipkin.wait_for_spans(service, 30)
    assert trace_ids_in(kafka, topic, 30) == set(ids)
    assert agent.running.terminate() == 0, agent.running.stderr


def trace_ids_in(kafka: KafkaServer, topic: str, count: int) -> set[str]:
    """Read a topic from its beginning until so many traces were in it, and return which."""
    consumer = kafka_python.KafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        consumer_timeout_ms=60_000,
    )
    found: set[str] = set()
    try:
        for record in consumer:
            assert record.headers == [("b3", b"0")]
            found |= {span["traceId"] for span in json.loads(record.value)}
            if len(found) >= count:
                break
    finally:
        consumer.close()
    return found


def dead_letters(agent: Agent) -> str:
    """Return the list of the dead letters, nothing if there are none."""
    return agent.command("dead-letter", "list")


def test_poisoned_spans_cost_no_others_their_way_through_kafka(
    kafka: KafkaServer, collecting_zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """Zipkin drops a whole message for one of them: all others arrive, and the poison is kept."""
    deployment.ring_dir.mkdir(mode=0o700)
    service = f"service-{uuid.uuid4().hex}"
    timestamp_us = time.time_ns() // 1000
    first = int(uuid.uuid4().hex[:12], 16)
    good = [
        b'{"traceId":"%032x","id":"%016x","timestamp":%d,"localEndpoint":{"serviceName":"%b"}}'
        % (first + number, number, timestamp_us, service.encode())
        for number in range(1, 1001)
    ]
    # The reader of rings lets nothing pass that is not a JSON object.
    poison = [one for one in POISON.values() if one.endswith(b"}")]
    ring = RingWriter(deployment.ring_dir, data_bytes=1 << 20)
    for number, one in enumerate(good):
        ring.put(one)
        if number % 10 == 0:
            ring.put(poison[number // 10 % len(poison)])
    agent = Agent(deployment, [{"type": "kafka", "bootstrap_servers": [kafka.bootstrap_servers]}])
    arrived = collecting_zipkin.wait_for_spans(service, len(good))
    assert len({span["traceId"] for span in arrived}) == len(good)
    assert dead_letters(agent).count("\n") == 1 + 100
    assert agent.running.terminate() == 0, agent.running.stderr
    ring.die()


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_poison_is_what_zipkin_refuses(zipkin: ZipkinServer, poison: bytes) -> None:
    """The tests' poisoned spans are poison, and the harmless ones are not."""
    address = urlsplit(zipkin.url).netloc
    json_type = {"Content-Type": "application/json"}
    expected = 202 if poison == ENDS_THE_LIST else 400
    assert post(address, b"[" + poison + b"]", json_type)[0] == expected
    for harmless in HARMLESS:
        assert post(address, b"[" + harmless + b"]", json_type)[0] == 202


def test_proxy_that_refuses_everything_costs_no_span(zipkin: ZipkinServer, deployment: Deployment) -> None:
    """It is named as a failure, nothing becomes a dead letter, and behind it Zipkin has all afterwards."""
    broken = True

    def proxy(report: Report) -> Response:
        if broken:
            return Response(400, "<html>Bad Request</html>", (("Content-Type", "text/html"),))
        headers = {k: v for k, v in report.headers.items() if k.startswith("Content-")}
        return Response(*post(urlsplit(zipkin.url).netloc, report.body, headers))

    zipkin_stub = ZipkinStub(proxy)
    agent = Agent(deployment, [{"type": "zipkin", "url": zipkin_stub.url}])
    service = f"service-{uuid.uuid4().hex}"
    span = {"timestamp": time.time_ns() // 1000, "localEndpoint": {"serviceName": service}}
    for _ in range(30):
        report(agent.address, *({**span, "traceId": uuid.uuid4().hex, "id": "1"} for _ in range(10)))
    wait_until(lambda: "spans wait in the spool" in agent.running.stderr, "the failure is said")
    wait_until(lambda: len(zipkin_stub.reports) > 30, "some more attempts")
    broken = False
    assert len(zipkin.wait_for_spans(service, 300)) == 300
    assert agent.command("dead-letter", "list") == ""
    assert agent.running.stderr.count("WARNING") == 1
    assert agent.running.terminate() == 0, agent.running.stderr
    zipkin_stub.close()


def test_span_that_zipkin_refuses_is_a_dead_letter_to_look_at_and_to_replay(
    zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """The others are delivered; the one is listed with Zipkin's reason, shown, sent again, and purged."""
    deployment.ring_dir.mkdir(mode=0o700)
    ring = RingWriter(deployment.ring_dir)
    good, bad = ring_span(int(uuid.uuid4().hex[:12], 16)), b'{"traceId":"0","id":"1","name":"zero"}'
    for payload in (good, bad):
        ring.put(payload)
    agent = Agent(deployment, [{"type": "zipkin", "url": zipkin.url}])
    assert len(stored(zipkin, json.loads(good)["traceId"])) == 1
    listing = wait_until(lambda: dead_letters(agent), "the dead letter")
    assert "HTTP 400" in listing
    assert "traceId is all zeros" in listing
    assert agent.command("dead-letter", "show", "1") == bad.decode() + "\n"
    assert agent.command("dead-letter", "replay", "--all").startswith("1 put back")
    wait_until(lambda: dead_letters(agent), "the dead letter of the second refusal")
    assert agent.command("dead-letter", "purge", "--all") == "1 deleted\n"
    assert agent.running.terminate() == 0
    ring.die()
