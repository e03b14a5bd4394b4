"""Ring directories that others have made, or changed, while an agent works or before it starts."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from support.deployment import Deployment
from support.process import RunningProcess
from support.raw_http import RawHttpClient
from support.ring_writer import RingWriter, span
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories to other users")
NOBODY_UID = 65534


def started(deployment: Deployment, zipkin_stub: ZipkinStub, **variables: str) -> RunningProcess:
    command = (sys.executable, "-m", "kaspan.cli.main", "agent", "--zipkin", zipkin_stub.url)
    agent = deployment.start("agent", *command, **variables)
    wait_until(lambda: "reads rings in" in agent.stderr or agent.process.poll() is not None, "the start")
    return agent


def health(address: str) -> tuple[int, list[str]]:
    client = RawHttpClient(address)
    answer = client.get("/health")
    client.close()
    return answer.status, json.loads(answer.body)["reasons"]


def theirs_as_a_directory(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, NOBODY_UID, NOBODY_UID)


def theirs_as_a_link(path: Path) -> None:
    path.symlink_to("/")
    os.chown(path, NOBODY_UID, NOBODY_UID, follow_symlinks=False)


@as_root
@pytest.mark.parametrize("squat", [theirs_as_a_directory, theirs_as_a_link])
def test_what_others_put_in_the_place_of_a_ring_directory_stops_nothing_else(
    deployment: Deployment, squat: object
) -> None:
    """Anybody may make /dev/shm/kaspan-1000: HTTP goes on, it is said, and rings are read when it is gone."""
    assert callable(squat)
    squat(deployment.ring_dir)
    address = str(deployment.directory / "agent.sock")
    zipkin_stub = ZipkinStub()
    agent = started(deployment, zipkin_stub, KASPAN_AGENT__SOCKET=address)
    client = RawHttpClient(address)
    assert client.post(b"[%b]" % span(1)).status == 202
    client.close()
    wait_until(lambda: health(address) == (200, ["ring_dir_refused"]), "the first look at the directory")
    wait_until(lambda: f"agent.ring_dirs: {deployment.ring_dir} " in agent.stderr, "the log")
    deployment.ring_dir.unlink() if deployment.ring_dir.is_symlink() else deployment.ring_dir.rmdir()
    wait_until(lambda: health(address) == (200, []), "the agent's own directory")
    writer = RingWriter(deployment.ring_dir)
    writer.put(span(2))
    wait_until(lambda: len(zipkin_stub.stored) == 2, "both spans")
    assert agent.terminate() == 0
    writer.die()
    zipkin_stub.close()


@as_root
def test_other_ring_directories_are_read_beside_one_that_is_refused(deployment: Deployment) -> None:
    """An agent for several users does not end for what one of them has done."""
    theirs_as_a_directory(deployment.ring_dir)
    ours = deployment.directory / "ours"
    ours.mkdir(mode=0o700)
    writer = RingWriter(ours)
    writer.put(span(1))
    zipkin_stub = ZipkinStub()
    agent = started(deployment, zipkin_stub, KASPAN_AGENT__RING_DIRS=f"[{deployment.ring_dir}, {ours}]")
    wait_until(lambda: len(zipkin_stub.stored) == 1, "the span")
    assert agent.terminate() == 0
    writer.die()
    zipkin_stub.close()


@as_root
def test_agent_that_could_take_nothing_does_not_start(deployment: Deployment) -> None:
    """Without HTTP and with somebody else's directory alone it ends with 2, and names the directory."""
    theirs_as_a_directory(deployment.ring_dir)
    zipkin_stub = ZipkinStub()
    agent = started(deployment, zipkin_stub)
    assert agent.wait() == 2
    assert f"agent.ring_dirs: {deployment.ring_dir} belongs to uid {NOBODY_UID}" in agent.stderr
    zipkin_stub.close()
