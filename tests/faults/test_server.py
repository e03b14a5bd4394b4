"""`kaspan server` as its operators meet it: started, stopped, twice, beside an agent, on a full disk."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path

import pytest

from support.deployment import KASPAN, Deployment
from support.full_disk import fill
from support.process import RunningProcess
from support.ring_writer import RingWriter, span
from support.span_server import SpanServer, missing_traces
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub


class StoringAgent(SpanServer):
    """A `kaspan agent` with a store, asked by HTTP."""

    def __init__(self, deployment: Deployment, store: Path, variables: dict[str, str]) -> None:
        self.store = store
        self.running = deployment.start_agent(**variables)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_server_that_is_stopped_keeps_every_span(deployment: Deployment, stop: signal.Signals) -> None:
    """Exit code 0, and what was answered 202 a moment before is found by its trace id."""
    server = SpanServer(deployment)
    assert server.post(*map(span, range(1, 51))) == 202
    server.running.process.send_signal(stop)
    assert server.running.wait() == 0, server.running.stderr
    assert "50 spans accepted, sent 50 to store" in server.running.stderr
    assert "0 left in the spool" in server.running.stderr
    assert missing_traces(server.store, [f"{number:016x}" for number in range(1, 51)]) == []


def test_server_answers_zipkins_queries(deployment: Deployment) -> None:
    """What was reported is found by its trace id, by a search, and by its service, a second later."""
    server = SpanServer(deployment)
    timestamp_us = time.time_ns() // 1000
    reported = (
        b'{"traceId":"%016x","id":"%016x","name":"send","timestamp":%d,"duration":10,'
        b'"localEndpoint":{"serviceName":"orders"},"tags":{"kafka.topic":"paid"}}' % (5, 5, timestamp_us)
    )
    assert server.post(reported) == 202
    trace_id = f"{5:016x}"
    wait_until(lambda: server.get(f"/api/v2/trace/{trace_id}").status == 200, "the trace")
    (found,) = json.loads(server.get(f"/zipkin/api/v2/trace/{trace_id}").body)
    assert found == json.loads(reported)
    search = "/api/v2/traces?serviceName=orders&annotationQuery=kafka.topic%3Dpaid"
    assert json.loads(server.get(search).body) == [[found]]
    assert json.loads(server.get("/api/v2/services").body) == ["orders"]


def test_agent_without_a_store_answers_no_queries(deployment: Deployment) -> None:
    """Nothing of the web is there, or loaded."""
    agent = StoringAgent(deployment, deployment.directory, {"KASPAN_AGENT__LISTEN": "127.0.0.1:0"})
    assert agent.get("/api/v2/services").status == 404


def run(deployment: Deployment, *arguments: str, **variables: str) -> RunningProcess:
    """Run a kaspan command to its end."""
    running = deployment.start("command", KASPAN, *arguments, **variables)
    running.wait()
    return running


def test_second_process_on_a_store_says_who_holds_it(deployment: Deployment) -> None:
    """Server or agent: it does not start, and the first one goes on."""
    server = SpanServer(deployment)
    server.wait_until_ready()
    again = run(deployment, "server", "--listen", "127.0.0.1:0", "--store", str(server.store))
    agent = run(deployment, "agent", "--store", str(server.store))
    for name, second in (("server", again), ("agent", agent)):
        assert second.wait() == 2
        assert second.stderr.count("\n") == 1
        assert second.stderr.startswith(f"kaspan {name}: the span store {server.store} is written by another")
        assert f"pid {server.running.process.pid};" in second.stderr
    assert server.post(span(1)) == 202


def test_store_of_a_process_that_was_killed_can_be_used_at_once(deployment: Deployment) -> None:
    """Its lock goes with it, and there is no repair step."""
    server = SpanServer(deployment)
    assert server.post(span(1)) == 202
    server.running.kill()
    again = SpanServer(deployment, store=server.store)
    assert again.post(span(2)) == 202
    assert again.running.terminate() == 0, again.running.stderr
    assert missing_traces(server.store, [f"{number:016x}" for number in (1, 2)]) == []


def test_address_in_use_is_named(deployment: Deployment, tmp_path: Path) -> None:
    """Often a Zipkin that runs already."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        second = run(deployment, "server", "--listen", listen, "--store", str(tmp_path / "store"))
    assert second.wait() == 2
    assert second.stderr.startswith(
        f"kaspan server: agent.listen: {listen} cannot be listened on: Address already in use; "
    )


@pytest.mark.parametrize("path", ["/proc/store", "/dev/null/store"])
def test_store_that_cannot_be_made_is_named(deployment: Deployment, path: str) -> None:
    """One line, exit code 2."""
    refused = run(deployment, "server", "--listen", "127.0.0.1:0", "--store", path)
    assert refused.wait() == 2
    assert refused.stderr.count("\n") == 1
    assert f"{path} cannot be created" in refused.stderr


def test_server_beside_an_agent_leaves_it_all_it_has(
    deployment: Deployment, zipkin_stub: ZipkinStub, tmp_path: Path
) -> None:
    """One settings file for both: rings, socket and spool stay the agent's, as do `status` and `doctor`."""
    file = tmp_path / "kaspan.yaml"
    file.write_text(f"agent: {{senders: [{{type: zipkin, url: {zipkin_stub.url}}}]}}")
    common = {
        "KASPAN_CONFIG": str(file),
        "KASPAN_AGENT__SOCKET": str(tmp_path / "agent.sock"),
    }
    deployment.ring_dir.mkdir(mode=0o700)
    server = SpanServer(deployment, **common, KASPAN_AGENT__SENDERS="[]")
    server.wait_until_ready()
    agent = deployment.start_agent(**common)
    writer = RingWriter(deployment.ring_dir, process=b'{"service":"orders"}')
    writer.put(span(1))
    wait_until(lambda: f"{1:016x}" in zipkin_stub.stored, "the ring's span at the agent's target")

    asked = run(deployment, "agent", "status", **common)
    assert f"pid {agent.process.pid}," in asked.stdout
    assert "store" not in asked.stdout
    assert server.status()["receivers"]["taken_spans"] == {"ring": 0, "http": 0, "unix": 0}
    doctor = run(deployment, "doctor", **common)
    assert "an agent reads it" in doctor.stdout
    assert f"the agent has sent to zipkin {zipkin_stub.url}" in doctor.stdout
    assert agent.terminate() == 0, agent.stderr
    assert server.running.terminate() == 0, server.running.stderr


def test_status_can_be_asked_of_a_server(deployment: Deployment) -> None:
    """With its store, by its address."""
    server = SpanServer(deployment)
    assert server.post(span(1)) == 202
    wait_until(lambda: server.status()["store"]["spans"] == 1, "the span in the store")
    host, port = server.address
    asked = run(deployment, "agent", "status", "--listen", f"{host}:{port}")
    assert asked.wait() == 0
    (row,) = [line for line in asked.stdout.splitlines() if line.startswith(f"{server.store} ")]
    assert row.split()[1] == "1"


def test_agent_may_keep_spans_beside_its_senders(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """Each span of a ring is sent, and is in the store."""
    store = deployment.directory / "store"
    agent = deployment.start_agent("--store", str(store), "--zipkin", zipkin_stub.url)
    deployment.ring_dir.mkdir(mode=0o700, exist_ok=True)
    writer = RingWriter(deployment.ring_dir)
    for number in range(1, 4):
        writer.put(span(number))
    ids = [f"{number:016x}" for number in range(1, 4)]
    wait_until(lambda: set(ids) <= set(zipkin_stub.stored), "the spans at Zipkin")
    assert agent.terminate() == 0, agent.stderr
    assert missing_traces(store, ids) == []


def test_agent_with_a_store_sends_nothing_elsewhere_unless_told(deployment: Deployment) -> None:
    """The default sender is for agents without a store."""
    agent = deployment.start_agent("--store", str(deployment.directory / "store"))
    wait_until(lambda: "sends to" in agent.stderr, "the start")
    assert agent.terminate() == 0, agent.stderr
    assert "127.0.0.1:9411" not in agent.stderr


def test_limits_of_the_store_are_taken_over_by_a_reload(deployment: Deployment, tmp_path: Path) -> None:
    """SIGHUP; the log says what is in force, and what needs a restart."""
    file = tmp_path / "kaspan.yaml"
    file.write_text("agent: {store: {max_bytes: 1073741824}}")
    server = SpanServer(deployment, "--config", str(file))
    assert server.status()["store"]["max_bytes"] == 1 << 30
    file.write_text("agent: {store: {max_bytes: 536870912, strict_trace_id: false}}")
    server.running.process.send_signal(signal.SIGHUP)
    wait_until(lambda: server.status()["store"]["max_bytes"] == 1 << 29, "the new limit")
    assert "now in force: agent.store.max_bytes" in server.running.stderr
    assert "needs a restart of the agent: agent.store.strict_trace_id" in server.running.stderr


def test_damaged_partition_is_named_and_the_server_goes_on(deployment: Deployment) -> None:
    """It is moved aside, /health and the log say so, and what comes is stored and found."""
    server = SpanServer(deployment)
    assert server.post(span(1)) == 202
    assert server.running.terminate() == 0, server.running.stderr
    (partition,) = server.store.glob("*.spans")
    partition.write_bytes(b"damaged" * 10_000)
    again = SpanServer(deployment, store=server.store)
    assert again.health() == (200, {"status": "degraded", "reasons": ["store_damaged"]})
    assert f"{partition} " in again.running.stderr
    assert [path.name for path in server.store.glob("*.damaged")] == [f"{partition.name}.damaged"]
    assert again.post(span(2)) == 202
    assert again.running.terminate() == 0, again.running.stderr
    assert missing_traces(server.store, [f"{2:016x}"]) == []


def test_full_disk_of_the_store_loses_nothing(deployment: Deployment, disk: Path) -> None:
    """Spans wait in the spool, /health says why, and all are stored once there is room."""
    store, filler = disk / "store", disk / "filler"
    variables = {
        "KASPAN_AGENT__LISTEN": "127.0.0.1:0",
        "KASPAN_AGENT__STORE__PATH": str(store),
        "KASPAN_AGENT__SENDERS": "[]",
    }
    agent = StoringAgent(deployment, store, variables)
    assert agent.post(span(1)) == 202
    fill(filler)
    numbers = range(2, 2002)
    for first in numbers[::100]:
        assert agent.post(*(span(number, 2000) for number in range(first, first + 100))) == 202
    wait_until(lambda: "store_failing" in agent.health()[1]["reasons"], "the store on a full disk fails")
    assert agent.health()[0] == 200
    filler.unlink()
    wait_until(lambda: not agent.health()[1]["reasons"], "the store works again")
    assert agent.running.terminate() == 0, agent.running.stderr
    assert "0 left in the spool" in agent.running.stderr
    assert len(list(store.glob("*.spans"))) == 1  # attempts that failed leave no files
    assert missing_traces(store, [f"{number:016x}" for number in (1, *numbers)]) == []
