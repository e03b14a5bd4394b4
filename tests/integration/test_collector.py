"""The agent's HTTP compared with a real Zipkin's: the same answers, the same stored spans."""

from __future__ import annotations

import http.client
import json
import random
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.exporter.zipkin.json import ZipkinExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from py_zipkin import Encoding, Kind
from py_zipkin.transport import BaseTransportHandler
from py_zipkin.zipkin import zipkin_span

from kaspan.wire.span import SPANS_PATH
from servers import ZipkinServer, fetch_jars
from servers.process import free_port
from support.deployment import Deployment
from support.ring_writer import RingWriter
from support.span_bodies import BODIES, JSON, SPAN_ID, TRACE_ID, Body, mutated
from support.waiting import wait_until

MUTATED_BODIES = 1500
Spans = list[dict[str, Any]]


class Target:
    """Something that takes spans by HTTP, over one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def post(self, body: Body) -> int:
        self._connection.putrequest("POST", SPANS_PATH, skip_accept_encoding=True)
        for name, value in {**body.headers, "Content-Length": str(len(body.content))}.items():
            self._connection.putheader(name, value)
        self._connection.endheaders(body.content)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


@pytest.fixture
def agent_url(zipkin: ZipkinServer, deployment: Deployment) -> Iterator[str]:
    """Give the address of an agent that sends to Zipkin."""
    url = f"http://127.0.0.1:{free_port()}"
    agent = deployment.start_agent("--zipkin", zipkin.url, "--listen", urlsplit(url).netloc)
    wait_until(lambda: "listens on" in agent.stderr, "the agent listens")
    yield url
    assert agent.terminate() == 0, agent.stderr
    assert "Traceback" not in agent.stderr
    assert "refuses" not in agent.stderr


def test_agent_takes_what_zipkin_takes(zipkin: ZipkinServer, agent_url: str) -> None:
    """Each body at the edges of the rules is 202 from both or refused by both."""
    at_zipkin, at_agent = Target(zipkin.url), Target(agent_url)
    for name, body in BODIES.items():
        answers = at_zipkin.post(body), at_agent.post(body)
        assert [answer == 202 for answer in answers] == [body.accepted] * 2, (name, answers)


def test_agent_takes_what_zipkin_takes_of_damaged_bodies(zipkin: ZipkinServer, agent_url: str) -> None:
    """The same for bodies damaged at random; and what the agent takes, Zipkin takes from it."""
    at_zipkin, at_agent = Target(zipkin.url), Target(agent_url)
    rng = random.Random(11)
    bodies = [body for body in BODIES.values() if body.content_type == JSON and not body.content_encoding]
    for _ in range(MUTATED_BODIES):
        body = rng.choice(bodies)._replace(content=mutated(rng.choice(bodies).content, rng))
        answers = at_zipkin.post(body), at_agent.post(body)
        assert (answers[0] == 202) == (answers[1] == 202), (body.content, answers)


def stored(zipkin: ZipkinServer, trace_id: str) -> Spans:
    """Return what Zipkin has of a trace, without the trace's own id, in an order of its own."""
    spans: Spans = wait_until(lambda: zipkin.trace(trace_id), f"trace {trace_id} is in Zipkin")
    return sorted(({**span, "traceId": ""} for span in spans), key=json.dumps)


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


def test_zipkin_stores_of_each_body_what_it_would_have_stored(zipkin: ZipkinServer, agent_url: str) -> None:
    """Every field of every span that the agent takes is in Zipkin as if it had been sent there."""
    at_zipkin, at_agent = Target(zipkin.url), Target(agent_url)
    traces: dict[str, tuple[str, str]] = {}
    for name, body in COMPARABLE.items():
        traces[name] = uuid.uuid4().hex, uuid.uuid4().hex
        for target, trace_id in zip((at_zipkin, at_agent), traces[name], strict=True):
            content = body.content.replace(TRACE_ID.encode(), trace_id.encode())
            content = content.replace(bytes.fromhex(TRACE_ID), bytes.fromhex(trace_id))
            assert target.post(body._replace(content=content)) == 202
    for name, (direct, through_agent) in traces.items():
        assert stored(zipkin, through_agent) == stored(zipkin, direct), name
    assert len(traces) > 100


FULL_SPAN: dict[str, Any] = {
    "parentId": "6b221d5bc9e6496c",
    "id": "5b4185666d50f68b",
    "kind": "SERVER",
    "name": "get /api",
    "timestamp": 1556604172355737,
    "duration": 1431,
    "localEndpoint": {"serviceName": "backend", "ipv4": "192.168.99.1", "port": 3306},
    "remoteEndpoint": {"serviceName": "frontend", "ipv6": "2001:db8::c001", "port": 63840},
    "annotations": [{"timestamp": 1556604172355740, "value": 'wire "send" \u00fc \U0001f600'}],
    "tags": {"http.method": "GET", "error": "no such host: \u30a2", "empty": "", "sql": "a\n\tb\\c"},
    "debug": True,
    "shared": True,
}


@pytest.mark.parametrize("way", ["http", "ring"])
def test_every_field_arrives_whatever_is_missing(
    zipkin: ZipkinServer, agent_url: str, deployment: Deployment, way: str
) -> None:
    """A span with all there is, less one field, comes out as it went in: ids of 64 and 128 bits alike."""
    agent, spans = Target(agent_url), {}
    for left_out in (*(FULL_SPAN.keys() - {"id"}), "nothing"):
        for id_chars in (16, 32):
            trace_id = uuid.uuid4().hex[:id_chars]
            span = {key: value for key, value in FULL_SPAN.items() if key != left_out}
            spans[trace_id] = {"traceId": trace_id, **span}
    if way == "http":
        for span in spans.values():
            assert agent.post(Body(json.dumps([span]).encode(), True)) == 202
    else:
        writer = RingWriter(deployment.ring_dir)
        assert all(writer.put(json.dumps(span).encode()) for span in spans.values())
        writer.die()
    for trace_id, span in spans.items():
        assert wait_until(lambda trace_id=trace_id: zipkin.trace(trace_id), "the span is in Zipkin") == [span]


class PyZipkinTransport(BaseTransportHandler):
    """py_zipkin leaves sending to its user: with the content type of its encoding."""

    def __init__(self, target: Target, content_type: str) -> None:
        self._target = target
        self._content_type = content_type

    def get_max_payload_bytes(self) -> int | None:
        return None

    def send(self, payload: bytes | str) -> None:
        content = payload.encode() if isinstance(payload, str) else payload
        assert self._target.post(Body(content, True, self._content_type)) == 202


def by_py_zipkin(encoding: Encoding, content_type: str) -> Callable[[str, str], str]:
    def report(url: str, service: str) -> str:
        transport = PyZipkinTransport(Target(url), content_type)
        with zipkin_span(
            service_name=service,
            span_name="GET /orders",
            transport_handler=transport,
            sample_rate=100,
            encoding=encoding,
            kind=Kind.SERVER,
            binary_annotations={"http.path": "/orders", "error": "timeout of 5 s"},
            use_128bit_trace_id=True,
        ) as root:
            with zipkin_span(service_name=service, span_name="query", kind=Kind.CLIENT) as query:
                query.add_sa_binary_annotation(3306, "mysql", "10.0.0.5")
                query.add_annotation("retry", 1_700_000_000.5)
            trace_id: str = root.zipkin_attrs.trace_id
        return trace_id

    return report


def by_opentelemetry(url: str, service: str) -> str:
    """Report by OpenTelemetry's SDK and its exporter, which knows of nothing but a Zipkin."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(ZipkinExporter(endpoint=url + SPANS_PATH)))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER) as root:
        with tracer.start_as_current_span("query", kind=SpanKind.CLIENT) as query:
            query.set_attribute("db.rows", 3)
            query.add_event("retry", {"attempt": 2})
        root.set_status(StatusCode.ERROR, "timeout of 5 s")
    provider.shutdown()
    return f"{root.get_span_context().trace_id:032x}"


def by_brave(url: str, service: str) -> str:
    """Report by Brave, Zipkin's own library for Java, in a process of its own."""
    jars = fetch_jars()
    script = Path(__file__).parents[1] / "servers" / "report.groovy"
    command = [jars.java, "-cp", jars.brave_class_path, "groovy.ui.GroovyMain", str(script)]
    ran = subprocess.run(
        [*command, url + SPANS_PATH, service], capture_output=True, text=True, check=False, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


CLIENTS: dict[str, Callable[[str, str], str]] = {
    "py_zipkin, JSON": by_py_zipkin(Encoding.V2_JSON, JSON),
    "py_zipkin, proto3": by_py_zipkin(Encoding.V2_PROTO3, "application/x-protobuf"),
    "OpenTelemetry": by_opentelemetry,
    "Brave": by_brave,
}


@pytest.mark.parametrize("report", CLIENTS.values(), ids=CLIENTS.keys())
def test_client_reports_through_the_agent_as_to_zipkin(
    zipkin: ZipkinServer, agent_url: str, report: Callable[[str, str], str]
) -> None:
    """A tracer that knows only Zipkin's API uses the agent in its place, and its spans are the same there."""
    service = f"shop-{time.time_ns()}"
    direct, through_agent = (
        comparable(wait_until(two_spans(zipkin, report(url, service)), "both spans are in Zipkin"))
        for url in (zipkin.url, agent_url)
    )
    assert through_agent == direct
    assert "timeout of 5 s" in str(through_agent)


def two_spans(zipkin: ZipkinServer, trace_id: str) -> Callable[[], Spans]:
    def both() -> Spans:
        spans = zipkin.trace(trace_id)
        return spans if len(spans) == 2 else []

    return both


def comparable(spans: Spans) -> Spans:
    """Replace what differs from run to run: ids by the order in which they come, times by nothing."""
    text = json.dumps(sorted(spans, key=lambda span: str(span["name"])))
    text = re.sub(r'"(timestamp|duration)": [0-9]+', r'"\1": "some"', text)
    for name, pattern in (("trace", r"\b[0-9a-f]{32}\b"), ("span", r"\b[0-9a-f]{16}\b")):
        for number, value in enumerate(dict.fromkeys(re.findall(pattern, text))):
            text = text.replace(value, f"{name}-{number}")
    found: Spans = json.loads(text)
    return found


def test_comparison_sees_a_difference() -> None:
    """What is compared above is not made equal by the comparing."""
    span = {"name": "a", "id": SPAN_ID, "tags": {"error": "x"}, "duration": 5}
    assert comparable([span]) != comparable([{**span, "tags": {"error": "y"}}])
    assert comparable([span]) != comparable([{key: span[key] for key in span if key != "duration"}])
    assert comparable([span]) == comparable([{**span, "id": "1" * 16, "duration": 6}])
