"""The promise: what was written to a ring or answered 202 arrives, whatever is killed meanwhile."""

from __future__ import annotations

import http.client
import json
import os
import random
import uuid
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from servers import KafkaServer, ZipkinServer
from support.deployment import Deployment
from support.full_disk import fill
from support.killed_agent import ARRIVAL_S, KILLS, KilledAgent, finish, print_outcome, span_of, zipkin_sender
from support.load import Applications
from support.lossy_proxy import LOST, LossyProxy
from support.ring_writer import span
from support.waiting import wait_until
from support.zipkin_stub import Report, Response, ZipkinStub


def test_nothing_is_lost_between_a_killed_agent_and_a_collector_at_its_worst(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """SIGKILLs at random moments; reports are refused, failed, held up or cut off, some spans for ever."""
    rng = random.Random(4)
    zipkin_stub.answer = proxy = LossyProxy(
        random.Random(5), 0.4, is_poison=lambda span_id: int(span_id, 16) % 1999 == 0
    )
    agent = KilledAgent(deployment, zipkin_sender(zipkin_stub.url))
    applications = Applications(deployment.ring_dir, agent.socket)
    for _ in range(KILLS):
        agent.kill(rng)
        applications.replace_one(rng)
    promised = applications.end()
    proxy.rate = 0.0
    dead = finish(agent, promised, lambda: set(zipkin_stub.stored), proxy.refused)
    assert os.listdir(deployment.ring_dir) == []
    assert len(promised) > 100 * KILLS
    print_outcome(promised, zipkin_stub.stored, dead, f"{KILLS} kills; {dict(proxy.faults)}")


class BeforeZipkin:
    """Passes reports on to a Zipkin; remembers by id what it answered 202 since it was last killed.

    Its storage is its memory, so only a Zipkin that lives still has what it took.
    """

    def __init__(self, zipkin: ZipkinServer) -> None:
        self._address = urlsplit(zipkin.url).netloc
        self.taken: set[str] = set()

    def __call__(self, report: Report) -> Response:
        connection = http.client.HTTPConnection(self._address, timeout=30)
        try:
            connection.request("POST", report.path, report.body, report.headers)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            return LOST
        finally:
            connection.close()
        if answer.status == http.HTTPStatus.ACCEPTED:
            self.taken.update(span["id"] for span in json.loads(report.content))
        return Response(answer.status)


def test_nothing_is_lost_when_zipkin_and_the_agent_are_killed(
    zipkin: ZipkinServer, deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """A real Zipkin, killed too: it answered 202 for each span, and has all since its last start."""
    rng = random.Random(6)
    service = f"shop-{uuid.uuid4().hex}"
    passed = BeforeZipkin(zipkin)
    zipkin_stub.answer = proxy = LossyProxy(random.Random(7), 0.2, passed)
    agent = KilledAgent(deployment, zipkin_sender(zipkin_stub.url))
    applications = Applications(deployment.ring_dir, agent.socket, make=span_of(service), pause_s=0.03)
    lives = max(1, KILLS // 15)
    for _ in range(lives):
        wait_until(lambda: len(passed.taken) > 100, "spans in Zipkin", ARRIVAL_S)
        zipkin.kill()
        passed.taken.clear()
        agent.kill(rng)
        zipkin.start()
        agent.kill(rng)
        applications.replace_one(rng)
        zipkin.wait_until_ready()
        agent.kill(rng)
    promised = applications.end()
    proxy.rate = 0.0
    dead = finish(agent, promised, lambda: set(zipkin_stub.stored), proxy.refused)
    in_zipkin = {span["id"] for span in zipkin.wait_for_spans(service, len(passed.taken), ARRIVAL_S)}
    assert passed.taken - in_zipkin == set()
    print_outcome(promised, zipkin_stub.stored, dead, f"{lives} kills of Zipkin, {3 * lives} of the agent")


def test_nothing_is_lost_when_the_broker_and_the_agent_are_killed(
    kafka: KafkaServer, collecting_zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """Spans go by a topic to a Zipkin that reads it: it has each of them, although the broker died."""
    rng = random.Random(8)
    service = f"shop-{uuid.uuid4().hex}"
    sender = {"type": "kafka", "bootstrap_servers": [kafka.bootstrap_servers], "timeout_s": 2.0}
    agent = KilledAgent(deployment, sender)
    applications = Applications(deployment.ring_dir, agent.socket, make=span_of(service), pause_s=0.03)
    lives = max(1, KILLS // 30)
    for _ in range(lives):
        agent.kill(rng)
        kafka.kill()
        agent.kill(rng)
        kafka.start()
        applications.replace_one(rng)
        agent.kill(rng)
        kafka.wait_until_ready()
        agent.kill(rng)
    promised = applications.end()
    found: Counter[str] = Counter()

    def arrived() -> set[str]:
        found.clear()
        found.update(span["id"] for span in collecting_zipkin.spans(service))
        return set(found)

    dead = finish(agent, promised, arrived, set())
    print_outcome(promised, found, dead, f"{lives} kills of the broker, {4 * lives} of the agent")


def test_nothing_is_lost_when_the_agent_is_killed_on_a_full_disk(
    disk: Path, deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """With the collector away, the disk full, and SIGKILLs on top: what was promised arrives afterwards."""
    rng = random.Random(10)
    zipkin_stub.answer = lambda report: Response(503)
    agent = KilledAgent(
        deployment, zipkin_sender(zipkin_stub.url), KASPAN_AGENT__SPOOL__PATH=str(disk / "spool.db")
    )
    applications = Applications(
        deployment.ring_dir, agent.socket, make=lambda number: span(number, extra_bytes=500)
    )
    wait_until(lambda: all(client.acknowledged for client in applications.clients), "spans in the spool")
    fill(disk / "filler")
    wait_until(lambda: any(client.statuses[429] for client in applications.clients), "429")
    for _ in range(max(3, KILLS // 4)):
        agent.kill(rng)
        applications.replace_one(rng)
    (disk / "filler").unlink()
    zipkin_stub.answer = lambda report: Response()
    for _ in range(2):
        agent.kill(rng)
    promised = applications.end()
    dead = finish(agent, promised, lambda: set(zipkin_stub.stored), set())
    assert {status for client in applications.clients for status in client.statuses} == {202, 429}
    print_outcome(promised, zipkin_stub.stored, dead, "on a full disk")
