"""The promise, with targets that are broken in ways of their own: no span is lost or given up for that."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable

import pytest

from servers import KafkaServer, ZipkinServer
from support.deployment import Deployment
from support.killed_agent import KILLS, KilledAgent, finish, print_outcome, span_of, zipkin_sender
from support.load import Applications, MakeSpan
from support.lossy_proxy import DRIP_S
from support.waiting import wait_until
from support.zipkin_stub import Response, ZipkinStub

EVERY_POISONED = 53
BROKEN: dict[str, Response] = {
    "400 to everything": Response(400, "no"),
    "413 to everything": Response(413, "no"),
    "a login page": Response(200, "<html>", (("Content-Type", "text/html"),)),
    "204": Response(204),
    "drips": Response(503, "x" * 1000, drip_s=DRIP_S),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
def test_nothing_is_given_up_for_a_target_that_is_broken(
    deployment: Deployment, zipkin_stub: ZipkinStub, answer: Response
) -> None:
    """While it takes nothing nothing is a dead letter, and the log says so; when it works all arrive."""
    rng = random.Random(12)
    zipkin_stub.answer = lambda report: answer
    agent = KilledAgent(deployment, zipkin_sender(zipkin_stub.url))
    applications = Applications(deployment.ring_dir, agent.socket)
    for _ in range(max(2, KILLS // 5)):
        wait_until(lambda: "spans wait in the spool" in agent.running.stderr, "the log", every_s=0.01)
        agent.kill(rng)
        applications.replace_one(rng)
    assert not zipkin_stub.stored
    zipkin_stub.answer = lambda report: Response()
    agent.kill(rng)
    promised = applications.end()
    assert finish(agent, promised, lambda: set(zipkin_stub.stored), set()) == set()
    print_outcome(promised, zipkin_stub.stored, set(), "broken target")


def key_twice(span: bytes) -> bytes:
    return span.replace(b'"name":', b'"timestamp":"never","name":', 1)


def nested(span: bytes) -> bytes:
    return span[:-1] + b',"x":' + b"[" * 300 + b"]" * 300 + b"}"


def wrong_kind(span: bytes) -> bytes:
    return span[:-1] + b',"kind":"NONE"}'


def wrong_tags(span: bytes) -> bytes:
    return span[:-1] + b',"tags":{"a":null}}'


POISONS: list[Callable[[bytes], bytes]] = [key_twice, nested, wrong_kind, wrong_tags]


def poison_of(number: int) -> Callable[[bytes], bytes] | None:
    return POISONS[number // EVERY_POISONED % len(POISONS)] if number % EVERY_POISONED == 0 else None


def poisoned(make: MakeSpan) -> MakeSpan:
    def poison(number: int) -> bytes:
        change = poison_of(number)
        return change(make(number)) if change else make(number)

    return poison


def test_poisoned_spans_harm_no_others_on_the_way_through_kafka(
    kafka: KafkaServer, collecting_zipkin: ZipkinServer, deployment: Deployment
) -> None:
    """Zipkin drops a whole message for one span that it cannot read, and tells nobody: no message has one."""
    rng = random.Random(14)
    service = f"shop-{uuid.uuid4().hex}"
    sender = {"type": "kafka", "bootstrap_servers": [kafka.bootstrap_servers], "timeout_s": 10.0}
    agent = KilledAgent(deployment, sender)
    applications = Applications(
        deployment.ring_dir, agent.socket, make=poisoned(span_of(service)), pause_s=0.02
    )
    for _ in range(max(2, KILLS // 5)):
        agent.kill(rng)
        applications.replace_one(rng)
    # Those by HTTP are refused at the door, and what came with them is the client's to send again.
    wait_until(lambda: all(client.statuses[400] for client in applications.clients), "refused bodies")
    wait_until(
        lambda: {poison_of(int(span_id, 16)) for span_id in applications.written()} > set(POISONS),
        "poisoned spans of each kind in rings",
    )
    promised = applications.end()
    bad = {span_id for span_id in promised if poison_of(int(span_id, 16))}
    found: Counter[str] = Counter()

    def arrived() -> set[str]:
        found.clear()
        found.update(span["id"] for span in collecting_zipkin.spans(service))
        return set(found)

    dead = finish(agent, promised, arrived, bad)
    assert {poison_of(int(span_id, 16)) for span_id in dead} == set(POISONS)
    assert dead == bad
    print_outcome(promised, found, dead, f"{len(bad)} poisoned")
