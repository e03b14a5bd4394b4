"""The agent as a process, among clients that mean harm: what they cost it and others is bounded."""

from __future__ import annotations

import contextlib
import os
import random
import socket
from pathlib import Path

import pytest

from servers.process import free_port
from support.deployment import KASPAN, Deployment
from support.hostile_requests import large_body, segments
from support.load import LOST_ANSWER, HttpApplication
from support.process import RunningProcess
from support.raw_http import RawHttpClient, request
from support.ring_writer import span
from support.span_bodies import BODIES, mutated
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub

FUZZED = int(os.environ.get("KASPAN_TEST_FUZZED_REQUESTS", "400"))
"""More on demand: the variable is for a long run by hand."""
SEED = int(os.environ.get("KASPAN_TEST_SEED", "5"))
TOKEN = "correct-horse-battery"
MAX_BODY_BYTES = 20_000
STRANGERS_MB = 12
"""What strangers may cost: a head of 32 KiB and a read of 64 KiB for each of OPEN_CONNECTIONS at the most."""
OPEN_CONNECTIONS = 60
LARGE_BODY_MB = 160
"""What reading a body of 16 MiB may cost, the body and its packed form included."""


class Agent:
    """An agent process with a TCP port for everybody and a unix socket for who may."""

    def __init__(self, deployment: Deployment, zipkin_stub: ZipkinStub, **variables: str) -> None:
        self.address = ("127.0.0.1", free_port())
        self.socket = str(deployment.directory / "agent.sock")
        variables = {
            "KASPAN_AGENT__LISTEN": f"127.0.0.1:{self.address[1]}",
            "KASPAN_AGENT__SOCKET": self.socket,
            **variables,
        }
        self.process: RunningProcess = deployment.start_agent("--zipkin", zipkin_stub.url, **variables)
        wait_until(lambda: "listens on" in self.process.stderr, "the agent's start")

    def memory_mb(self, what: str) -> float:
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(status.partition(what)[2].split()[0]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.process.pid}/clear_refs").write_text("5")

    def end(self) -> None:
        assert self.process.terminate() == 0, self.process.stderr
        assert "Traceback" not in self.process.stderr


def harass(agent: Agent, rng: random.Random) -> None:
    """Connect again and again, send broken requests, and leave most connections open."""
    bodies = [body.content for body in BODIES.values()]
    clients: list[socket.socket] = []
    for _ in range(FUZZED):
        client = socket.create_connection(agent.address)
        client.settimeout(0.05)
        with contextlib.suppress(OSError):
            for segment in segments(rng, mutated(rng.choice(bodies), rng), MAX_BODY_BYTES):
                client.sendall(segment)
        clients.append(client)
        if len(clients) >= OPEN_CONNECTIONS or rng.random() < 0.1:
            clients.pop(rng.randrange(len(clients))).close()
    for client in clients:
        client.close()


def post_largest(agent: Agent, token: str) -> int:
    """Post a body of the largest size; if any room is still held by others there is none for it, 429."""
    body = b"[" + span(1) + b"]"
    headers = {"authorization": f"Bearer {token}"} if token else {}
    client = RawHttpClient(agent.address)
    status = client.post(body + b" " * (MAX_BODY_BYTES - len(body)), **headers).status
    client.close()
    return status


@pytest.mark.parametrize("token", [TOKEN, ""], ids=["strangers", "everybody"])
def test_hostile_requests_cost_little_and_nobody_is_refused_for_them(
    deployment: Deployment, zipkin_stub: ZipkinStub, token: str
) -> None:
    """A client without a token raises the memory by a few MiB at most, and holds no room once it is gone.

    While it is there nobody else is refused. Where there is no token it is a client like all others, and what
    it has sent may fill the room meanwhile.
    """
    agent = Agent(
        deployment, zipkin_stub, KASPAN_AGENT__TOKEN=token, KASPAN_AGENT__MAX_BODY_BYTES=str(MAX_BODY_BYTES)
    )
    reporter = HttpApplication(agent.socket, 1 << 40, pause_s=0.02)
    wait_until(lambda: reporter.statuses[202] > 20, "202")
    assert post_largest(agent, token) == 202
    agent.forget_peak()
    before_mb = agent.memory_mb("VmRSS:")
    harass(agent, random.Random(SEED))
    cost_mb = agent.memory_mb("VmHWM:") - before_mb
    print(f"{FUZZED} connections: {cost_mb:.0f} MB; others: {dict(reporter.statuses)}")
    reporter.end()
    assert set(reporter.statuses) <= ({202} if token else {202, 429})
    with contextlib.suppress(*LOST_ANSWER):
        wait_until(lambda: post_largest(agent, token) == 202, "the room is free again")
    # Twice as much as one body is there for all: half of it may not be missing.
    halves = [RawHttpClient(agent.address) for _ in range(2)]
    headers = {"authorization": f"Bearer {token}"} if token else {}
    for client in halves:
        client.send(request(b"[" + b" " * (MAX_BODY_BYTES - 2) + b"]", **headers)[:-1])
    for client in halves:
        client.send(b"]")
        assert client.answer().status == 202
    assert cost_mb < STRANGERS_MB
    agent.end()


def test_hostile_bodies_are_read_within_bounds(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """Bodies of up to 16 MiB of one thing over and over, packed small: each is answered, others served."""
    rng = random.Random(SEED)
    agent = Agent(deployment, zipkin_stub)
    with contextlib.closing(RawHttpClient(agent.socket)) as client:
        assert client.post(b"[" + span(1) + b"]").status == 202
    agent.forget_peak()
    before_mb = agent.memory_mb("VmRSS:")
    for number in range(max(10, FUZZED // 20)):
        body, content_type = large_body(rng, 16 << 20)
        hostile, other = RawHttpClient(agent.address), RawHttpClient(agent.socket)
        hostile.send(request(body, content_encoding="gzip", content_type=content_type))
        assert other.post(b"[" + span(number + 2) + b"]").status == 202
        assert hostile.answer().status in (202, 400, 413, 429)
        hostile.close()
        other.close()
    cost_mb = agent.memory_mb("VmHWM:") - before_mb
    print(f"{max(10, FUZZED // 20)} large bodies: {cost_mb:.0f} MB")
    assert cost_mb < LARGE_BODY_MB
    agent.end()


def test_more_handshakes_than_descriptors_end_nothing(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """At 100 open files 300 clients that begin no handshake are cut off one by one, and spans are taken."""
    port, path = free_port(), str(deployment.directory / "agent.sock")
    tls = Path(__file__).parents[1] / "tls"
    agent = deployment.start(
        "agent",
        *("sh", "-c", 'ulimit -n 100; exec "$@"', "sh", KASPAN, "agent", "--zipkin", zipkin_stub.url),
        KASPAN_AGENT__LISTEN=f"127.0.0.1:{port}",
        KASPAN_AGENT__SOCKET=path,
        KASPAN_AGENT__TLS=f"{{cert: {tls / 'server.pem'}, key: {tls / 'server.key'}}}",
    )
    wait_until(lambda: "listens on" in agent.stderr, "the agent's start")
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(300)]
    for number in range(5):
        with contextlib.closing(RawHttpClient(path)) as client:
            assert client.post(b"[" + span(number + 1) + b"]").status == 202
    for client in silent:
        client.close()
    wait_until(lambda: len(zipkin_stub.stored) == 5, "all spans are delivered")
    assert "LimitNOFILE" in agent.stderr
    assert agent.terminate() == 0, agent.stderr
    assert "Traceback" not in agent.stderr
