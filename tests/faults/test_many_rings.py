"""Hundreds of applications on one agent: they end together on a slow disk, or exceed its descriptors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from support.deployment import Deployment
from support.load import RingApplication
from support.process import RunningProcess
from support.raw_http import RawHttpClient
from support.ring_writer import RingWriter, span
from support.slow_disk import slow_disk
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub

ENDING = int(os.environ.get("KASPAN_TEST_ENDING_PROCESSES", "300"))
RINGS = 300
DESCRIPTORS = 128
ARRIVAL_S = 120.0


@pytest.fixture
def rings(deployment: Deployment) -> Path:
    deployment.ring_dir.mkdir(mode=0o700)
    return deployment.ring_dir


def started(
    deployment: Deployment, zipkin_stub: ZipkinStub, *before: str, **variables: str
) -> RunningProcess:
    """Start an agent, by a command that comes before it, and wait until it works."""
    command = (*before, sys.executable, "-m", "kaspan.cli.main", "agent", "--zipkin", zipkin_stub.url)
    agent = deployment.start("agent", *command, **variables)
    wait_until(lambda: "reads rings in" in agent.stderr or agent.process.poll() is not None, "the start")
    assert agent.process.poll() is None, agent.stderr
    return agent


def arrive(zipkin_stub: ZipkinStub, written: set[str]) -> None:
    wait_until(lambda: written <= set(zipkin_stub.stored), f"{len(written)} spans", ARRIVAL_S)


def test_living_application_loses_nothing_while_hundreds_end_on_a_slow_disk(
    deployment: Deployment, zipkin_stub: ZipkinStub, rings: Path
) -> None:
    """Its ring has room for a fraction of the time that one flush for each of them would take."""
    agent = started(deployment, zipkin_stub, **slow_disk(deployment.directory))
    ending = [RingWriter(rings, f"{number}-a.ring") for number in range(ENDING)]
    living = RingApplication(rings, "living.ring", 1 << 32, pause_s=0.001, ring_bytes=1 << 19)
    wait_until(lambda: len(living.written) > 1000, "spans of the living application")
    written = set()
    for number, writer in enumerate(ending):
        assert writer.put(span(number + 1))
        written.add(f"{number + 1:016x}")
        writer.die()
    wait_until(lambda: os.listdir(rings) == ["living.ring"], "the others' rings to go", ARRIVAL_S)
    written |= living.end()
    arrive(zipkin_stub, written)
    assert living.dropped == 0
    assert agent.terminate() == 0
    assert "0 left in the spool" in agent.stderr


def test_more_rings_than_descriptors_lose_nothing(
    deployment: Deployment, zipkin_stub: ZipkinStub, rings: Path
) -> None:
    """The agent lives, takes every ring's spans and those that come by HTTP, and says what to do."""
    address = str(deployment.directory / "agent.sock")
    limited = f'ulimit -n {DESCRIPTORS}; exec "$@"'
    agent = started(deployment, zipkin_stub, "sh", "-c", limited, "sh", KASPAN_AGENT__SOCKET=address)
    writers = [RingWriter(rings, f"{number}-a.ring") for number in range(RINGS)]
    written = set()
    for round_ in range(3):
        for number, writer in enumerate(writers, round_ * RINGS + 1):
            assert writer.put(span(number))
            written.add(f"{number:016x}")
        arrive(zipkin_stub, written)
    client = RawHttpClient(address)
    assert client.post(b"[%b]" % span(1 << 32)).status == 202
    client.close()
    for writer in writers:
        writer.die()
    wait_until(lambda: os.listdir(rings) == [], "the rings to go", ARRIVAL_S)
    arrive(zipkin_stub, {f"{1 << 32:016x}"})
    assert agent.terminate() == 0
    assert agent.stderr.count("raise `ulimit -n`") == 1
    assert max(zipkin_stub.stored.values()) == 1
