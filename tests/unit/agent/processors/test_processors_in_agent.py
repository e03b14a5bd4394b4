"""An agent with processors, as a process: what comes in by ring and by HTTP, and what goes out."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.deployment import Deployment
from support.ring_writer import RingWriter
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub

PROCESSORS = """
agent:
  processors:
    - {type: drop, topics: ["audit.*"]}
    - {type: add_tags, tags: {host: "${HOST_NAME}"}}
    - {type: rename_remote}
    - {type: redact, values: ["[0-9]{16}"]}
"""
CARD = "4111111111111111"


def span(number: int, topic: str) -> bytes:
    return json.dumps(
        {
            "traceId": f"{number:016x}",
            "id": f"{number:016x}",
            "localEndpoint": {"serviceName": "orders"},
            "remoteEndpoint": {"serviceName": "kafka"},
            "tags": {"kafka.topic": topic, "card": CARD},
        }
    ).encode()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    (tmp_path / "kaspan.yaml").write_text(PROCESSORS)
    yield deployment
    deployment.close()


def post(socket_path: str, body: bytes) -> int:
    """Send a body to the agent's unix socket and return the answer's status."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(socket_path)
    try:
        connection.request("POST", "/api/v2/spans", body, {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_spans_by_ring_and_by_http_are_processed_alike(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """Whichever way a span came, what reaches Zipkin was dropped, tagged, renamed and redacted."""
    socket_path = str(deployment.directory / "agent.sock")
    deployment.start_agent(
        *("--config", "kaspan.yaml", "--zipkin", zipkin_stub.url),
        KASPAN_AGENT__SOCKET=socket_path,
        HOST_NAME="host-1",
    )
    wait_until(lambda: Path(socket_path).exists(), "the agent listens")
    writer = RingWriter(deployment.ring_dir)
    writer.put(span(1, "orders"))
    writer.put(span(2, "audit.logins"))
    assert post(socket_path, b"[%s,%s]" % (span(3, "orders"), span(4, "audit.logins"))) == 202
    assert post(socket_path, b"[%s]" % span(5, "audit.logins")) == 202
    wait_until(lambda: len(zipkin_stub.stored) == 2, "both spans have arrived")
    writer.die()
    arrived = [sent for report in zipkin_stub.reports for sent in json.loads(report.body)]
    assert sorted(arrived, key=lambda sent: str(sent["id"])) == [processed(1), processed(3)]


def processed(number: int) -> dict[str, Any]:
    """What becomes of a span of the topic orders."""
    expected: dict[str, Any] = json.loads(span(number, "orders"))
    expected["remoteEndpoint"]["serviceName"] = "kafka/orders"
    expected["tags"] |= {"card": "***", "host": "host-1"}
    return expected


def test_agent_does_not_start_without_a_variable_of_its_processors(deployment: Deployment) -> None:
    """It ends with 2 and names file and line, key, and the variable."""
    agent = deployment.start_agent("--config", "kaspan.yaml", "--console")
    assert agent.wait() == 2
    assert agent.stderr == (
        "kaspan agent: kaspan.yaml:3: agent.processors[1].tags.host: the environment variable HOST_NAME is "
        "not set or empty; set it for the agent, or write ${HOST_NAME:-default}\n"
    )
