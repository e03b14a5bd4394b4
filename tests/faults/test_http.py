"""The agent as a process that takes spans by HTTP, while things go wrong and clients do as they like."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import re
import socket
from collections import Counter
from pathlib import Path

import pytest

from support.deployment import Deployment
from support.full_disk import fill
from support.load import LOST_ANSWER, HttpApplication
from support.process import RunningProcess
from support.raw_http import RawHttpClient, request
from support.ring_writer import span
from support.span_bodies import BODIES, mutated
from support.waiting import wait_until
from support.zipkin_stub import Response, ZipkinStub

FUZZED_BODIES = int(os.environ.get("KASPAN_TEST_FUZZED_BODIES", "2000"))
"""More on demand: the variable is for a long run by hand."""
PEAK_MB = 128
"""Above what a quiet agent takes, twice the largest body and what reading one of them needs."""


class Agent:
    """An agent process that listens on a unix socket, and can be started again where it was."""

    def __init__(self, deployment: Deployment, zipkin_stub: ZipkinStub, **variables: str) -> None:
        self.socket = str(deployment.directory / "agent.sock")
        self._deployment = deployment
        self._zipkin_stub = zipkin_stub
        self._variables = {"KASPAN_AGENT__SOCKET": self.socket, **variables}
        self.start()

    def start(self) -> None:
        self.process: RunningProcess = self._deployment.start_agent(
            "--zipkin", self._zipkin_stub.url, **self._variables
        )
        wait_until(
            lambda: "listens on" in self.process.stderr or self.process.process.poll() is not None,
            "the agent's start",
        )
        assert self.process.process.poll() is None, self.process.stderr

    def client(self) -> RawHttpClient:
        return RawHttpClient(self.socket)

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.process.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def arrive(zipkin_stub: ZipkinStub, acknowledged: set[str]) -> None:
    """Wait until everything that was acknowledged has been stored."""
    wait_until(
        lambda: acknowledged <= set(zipkin_stub.stored), f"{len(acknowledged)} spans at the collector", 90.0
    )


def test_full_spool_is_429_and_drains_when_the_collector_is_back(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """With the collector away the spool fills to its limit, clients are told, and nothing of it is lost."""
    zipkin_stub.answer = lambda report: Response(503)
    agent = Agent(deployment, zipkin_stub, KASPAN_AGENT__SPOOL__MAX_BYTES=str(1 << 20))
    reporter = HttpApplication(agent.socket, 1, in_body=50)
    wait_until(lambda: reporter.statuses[429], "429")
    zipkin_stub.answer = lambda report: Response()
    before = reporter.statuses[202]
    wait_until(lambda: reporter.statuses[202] > before + 10, "room again")
    arrive(zipkin_stub, reporter.end())
    assert set(reporter.statuses) == {202, 429}
    assert "agent.spool.max_bytes" in agent.process.stderr


def test_full_disk_is_429_and_taken_again_without_a_restart(
    deployment: Deployment, zipkin_stub: ZipkinStub, disk: Path
) -> None:
    """A disk without room refuses clients for as long, and what was acknowledged before and after arrives."""
    agent = Agent(deployment, zipkin_stub, KASPAN_AGENT__SPOOL__PATH=str(disk / "spool.db"))
    reporter = HttpApplication(agent.socket, 1)
    wait_until(lambda: reporter.statuses[202], "202")
    zipkin_stub.answer = lambda report: Response(503)
    fill(disk / "filler")
    wait_until(lambda: reporter.statuses[429], "429")
    (disk / "filler").unlink()
    zipkin_stub.answer = lambda report: Response()
    before = reporter.statuses[202]
    wait_until(lambda: reporter.statuses[202] > before + 10, "room again")
    arrive(zipkin_stub, reporter.end())
    assert set(reporter.statuses) == {202, 429}
    assert agent.process.terminate() == 0, agent.process.stderr
    assert "Traceback" not in agent.process.stderr


def test_fuzzed_bodies_and_requests_harm_nobody(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """Thousands of damaged bodies and requests: each is answered or cut off, others are served."""
    rng = random.Random(7)
    agent = Agent(deployment, zipkin_stub)
    reporter = HttpApplication(agent.socket, 1 << 40)
    bodies = list(BODIES.values())
    statuses: Counter[int | str] = Counter()
    client = agent.client()
    for _ in range(FUZZED_BODIES):
        body = rng.choice(bodies)
        headers = {name.lower().replace("-", "_"): value for name, value in body.headers.items()}
        raw = request(mutated(body.content, rng), **headers)
        if rng.random() < 0.1:
            raw = mutated(raw, rng)
        try:
            client.send(raw)
            client.socket.settimeout(0.3)
            statuses[client.answer().status] += 1
        except (*LOST_ANSWER, ValueError) as error:
            # A request whose damage makes it longer is waited for, and that is right.
            statuses[type(error).__name__] += 1
            client.close()
            client = agent.client()
    client.close()
    print(f"{FUZZED_BODIES} fuzzed: {dict(statuses)}; peak {agent.peak_mb():.0f} MB")
    arrive(zipkin_stub, reporter.end())
    assert set(reporter.statuses) == {202}
    assert statuses[202] > 0
    assert statuses[400] > 0
    assert statuses[500] == 0
    numbers = agent.client().get("/metrics").text
    counted = sum(
        map(int, re.findall(r"^kaspan_agent_receiver_refused_requests_total\{.*\} (\d+)$", numbers, re.M))
    )
    answered = sum(count for status, count in statuses.items() if isinstance(status, int) and status >= 400)
    assert counted >= answered
    assert agent.peak_mb() < PEAK_MB
    assert agent.process.terminate() == 0, agent.process.stderr
    assert "Traceback" not in agent.process.stderr


def test_slow_clients_in_any_number_do_not_hold_the_agent(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """Hundreds of connections that send a byte of a request now and then: others are served as ever."""
    agent = Agent(deployment, zipkin_stub, KASPAN_AGENT__MAX_CONNECTIONS="50")
    slow = []
    for number in range(300):
        client = agent.client()
        with contextlib.suppress(OSError):
            client.send(
                b"POST /api/v2/spans HTTP/1.1\r\nhost: agent\r\ncontent-length: 1000\r\n"[: number % 70]
            )
        slow.append(client)
        if number % 30 == 0:
            assert agent.client().post(b"[" + span(number + 1) + b"]").status == 202
    for client in slow:
        client.close()
    arrive(zipkin_stub, {f"{number + 1:016x}" for number in range(0, 300, 30)})
    assert "more than 50 connections" in agent.process.stderr


def test_decompression_bombs_are_refused_within_bounds(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """Bodies that unpack to 256 MiB, from many clients at once, cost no more memory than a large body."""
    bomb = gzip.compress(b"[" + b" " * (1 << 28), 6)
    agent = Agent(deployment, zipkin_stub)
    clients = [agent.client() for _ in range(10)]
    for client in clients:
        client.send(request(bomb, content_encoding="gzip"))
    assert {client.answer().status for client in clients} <= {413, 429}
    assert agent.peak_mb() < PEAK_MB
    assert agent.client().post(b"[" + span(1) + b"]").status == 202


_ONE = b'{"traceId":"1","id":"2"'
LARGEST = {
    "smallest spans": b"[%b]" % b",".join([_ONE + b"}"] * 600_000),
    "smallest spans, read leniently": b"[%b]" % b",".join([_ONE + b',"timestamp":"1"}'] * 100_000),
    "brackets": b"[" * 16_000_000,
    "numbers": b"[" + b"1," * 8_000_000 + b"1]",
    "numbers in a span": b"[" + _ONE + b',"timestamp":"1","x":[' + b"1," * 8_000_000 + b"1]}]",
    "empty objects": b"[" + b"{}," * 5_000_000 + b"{}]",
    "tags": b"[" + _ONE + b',"tags":{' + b",".join(b'"%x":""' % tag for tag in range(1_200_000)) + b"}}]",
    "lenient numbers": b"[" + _ONE + b',"timestamp":"1","x":[' + b"1," * 500_000 + b"1]}]",
    "one long text": b"[" + _ONE + b',"name":"' + b"x" * 16_000_000 + b'"}]',
}


@pytest.mark.parametrize("body", LARGEST.values(), ids=LARGEST.keys())
def test_largest_bodies_are_read_within_bounds(
    deployment: Deployment, zipkin_stub: ZipkinStub, body: bytes
) -> None:
    """Bodies of the largest size from many clients at once, or a few KiB of gzip, do not burst the memory."""
    agent = Agent(deployment, zipkin_stub)
    packed = gzip.compress(body, 1)
    clients = [agent.client() for _ in range(8)]
    for client in clients:
        client.send(request(packed, content_encoding="gzip"))
    assert agent.client().post(b"[" + span(1) + b"]").status == 202
    whole = agent.client()
    whole.send(request(body))
    answers = {client.answer().status for client in (*clients, whole)}
    assert answers <= {202, 429} or answers <= {400, 413, 429}
    assert agent.peak_mb() < 2 * PEAK_MB
    assert agent.client().post(b"[" + span(2) + b"]").status == 202
    assert "Traceback" not in agent.process.stderr


def test_agent_whose_address_is_taken_does_not_start(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """It ends with 2 and one line that names the setting, the address and the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        agent = deployment.start_agent("--zipkin", zipkin_stub.url, "--listen", address)
        assert agent.wait() == 2
    assert agent.stderr.startswith(f"kaspan agent: agent.listen: {address} cannot be listened on: Address ")
    assert agent.stderr.count("\n") == 1
