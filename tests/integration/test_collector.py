"""The agent's HTTP compared with a real Zipkin's: the same answers, the same stored spans."""

from __future__ import annotations

import json
import random
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from servers import ZipkinServer
from servers.process import free_port
from support.deployment import Deployment
from support.ring_writer import RingWriter
from support.span_bodies import BODIES, JSON, SPAN_ID, TRACE_ID, Body, mutated
from support.span_reporters import REPORTERS, Report, Target
from support.waiting import wait_until

MUTATED_BODIES = 1500
Spans = list[dict[str, Any]]


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


@pytest.mark.parametrize("report", REPORTERS.values(), ids=REPORTERS.keys())
def test_client_reports_through_the_agent_as_to_zipkin(
    zipkin: ZipkinServer, agent_url: str, report: Report
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
