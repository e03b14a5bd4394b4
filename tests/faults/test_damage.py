"""Stray files in a ring directory, and a full disk, cost no application a whole span."""

from __future__ import annotations

import fcntl
import os
import struct
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from kaspan.wire import ring
from servers.process import free_port
from support.deployment import KASPAN, Deployment, python
from support.full_disk import fill
from support.waiting import wait_until

SENT = 40
APPLICATION = """
import sys
from kafka import KafkaProducer
settings = {"bootstrap_servers": sys.argv[1], "api_version": (2, 3)}
if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
    settings["enable_idempotence"] = False
producer = KafkaProducer(**settings)
for number in range(int(sys.argv[3])):
    producer.send(sys.argv[2], b"%d" % number, partition=0)
producer.flush()
print("sent")
"""


def run_application(deployment: Deployment, broker: str, topic: str, count: int = SENT) -> None:
    application = deployment.start_traced("shop", *python("-c", APPLICATION, broker, topic, str(count)))
    assert application.finish() == "sent\n"
    assert application.stderr == ""


def ring_bytes() -> bytearray:
    """Return a whole ring with nothing in it."""
    return bytearray(ring.pack_header(ring.MIN_DATA_BYTES, b"{}") + bytes(ring.MIN_DATA_BYTES))


def nothing() -> bytes:
    return b""


def noise() -> bytes:
    return os.urandom(100_000)


def another_version() -> bytes:
    damaged = ring_bytes()
    damaged[7] = 2
    return bytes(damaged)


def truncated() -> bytes:
    return bytes(ring_bytes()[: ring.HEADER_BYTES + 100])


def truncated_in_the_header() -> bytes:
    return bytes(ring_bytes()[:20])


def larger_than_it_is() -> bytes:
    damaged = ring_bytes()
    struct.pack_into("<I", damaged, 12, ring.MAX_DATA_BYTES)
    return bytes(damaged)


def written_beyond_its_end() -> bytes:
    damaged = ring_bytes()
    struct.pack_into("<Q", damaged, ring.WRITE_POS, 1 << 60)
    return bytes(damaged)


def frames_of_noise() -> bytes:
    damaged = ring_bytes()
    damaged[ring.HEADER_BYTES :] = os.urandom(ring.MIN_DATA_BYTES)
    struct.pack_into("<Q", damaged, ring.WRITE_POS, ring.MIN_DATA_BYTES)
    return bytes(damaged)


DAMAGED = [
    nothing,
    noise,
    another_version,
    truncated,
    truncated_in_the_header,
    larger_than_it_is,
    written_beyond_its_end,
    frames_of_noise,
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_ring_is_named_and_the_others_are_delivered(
    content: Callable[[], bytes], deployment: Deployment, broker: str
) -> None:
    """A damaged ring, or a file that is not a ring, is named in the log; other applications' spans arrive."""
    deployment.ring_dir.mkdir(mode=0o700)
    damaged = deployment.ring_dir / f"1-damaged{ring.SUFFIX}"
    damaged.write_bytes(content())
    topic = f"topic-{uuid.uuid4().hex}"

    agent = deployment.start_agent("--console")
    run_application(deployment, broker, topic)
    wait_until(lambda: agent.stdout.count(f"send {topic}") == SENT, f"{SENT} spans are printed")
    wait_until(lambda: str(damaged) in agent.stderr, "the damaged ring is named")

    assert agent.terminate() == 0, agent.stderr
    assert "Traceback" not in agent.stderr


def test_ring_truncated_while_it_is_written_harms_neither_agent_nor_other_applications(
    deployment: Deployment, broker: str
) -> None:
    """A ring cut off under the agent's eyes is named, and the agent goes on with the next application."""
    agent = deployment.start_agent("--console")
    deployment.ring_dir.mkdir(mode=0o700, exist_ok=True)
    first, second = (f"topic-{uuid.uuid4().hex}" for _ in range(2))
    path = deployment.ring_dir / f"1-cut{ring.SUFFIX}"
    with open(deployment.ring_dir / "being-made", "w+b") as cut:
        fcntl.flock(cut, fcntl.LOCK_EX)
        cut.write(ring_bytes())
        cut.flush()
        os.rename(cut.name, path)
        run_application(deployment, broker, first)
        wait_until(lambda: agent.stdout.count(f"send {first}") == SENT, f"{SENT} spans are printed")
        cut.truncate(ring.WRITE_POS)
        wait_until(lambda: str(path) in agent.stderr, "the cut ring is named")
    run_application(deployment, broker, second)
    wait_until(lambda: agent.stdout.count(f"send {second}") == SENT, f"{SENT} more spans are printed")

    assert agent.terminate() == 0, agent.stderr


def test_full_disk_under_the_spool_delays_spans_and_loses_none(
    deployment: Deployment, broker: str, disk: Path
) -> None:
    """With no room for the spool spans wait in their ring, the log says so, and with room all arrive."""
    topic = f"topic-{uuid.uuid4().hex}"
    agent = deployment.start_agent("--console", "--spool", str(disk / "spool.db"))
    wait_until(lambda: "reads rings" in agent.stderr, "the agent has started")
    fill(disk / "filler")

    run_application(deployment, broker, topic, count=500)
    wait_until(lambda: "full" in agent.stderr, "the agent says that the disk is full")
    assert topic not in agent.stdout
    (disk / "filler").unlink()

    wait_until(lambda: agent.stdout.count(f"send {topic}") == 500, "500 spans are printed")
    assert agent.terminate() == 0, agent.stderr
    assert "Traceback" not in agent.stderr


def test_agent_refuses_to_start_on_a_full_disk(deployment: Deployment, disk: Path) -> None:
    """Where the spool cannot be made the agent ends with exit code 2 and names the file and the reason."""
    fill(disk / "filler")
    spool = disk / "spool.db"

    agent = deployment.start_agent("--console", "--spool", str(spool))

    assert agent.wait() == 2
    assert agent.stderr.startswith("kaspan agent: agent.spool.path")
    assert str(spool) in agent.stderr
    assert "full" in agent.stderr


def test_agent_names_what_to_do_about_a_damaged_spool_on_a_full_disk(
    deployment: Deployment, broker: str, disk: Path
) -> None:
    """It ends with exit code 2 and says where the spans are; with room it starts, and they come back."""
    topic = f"topic-{uuid.uuid4().hex}"
    spool = disk / "spool.db"
    agent = deployment.start_agent("--zipkin", f"http://127.0.0.1:{free_port()}", "--spool", str(spool))
    run_application(deployment, broker, topic)
    wait_until(lambda: list(deployment.ring_dir.iterdir()) == [], "the agent has taken the spans")
    agent.kill()
    with open(spool, "r+b") as file:
        file.write(os.urandom(100))
    fill(disk / "filler")

    agent = deployment.start_agent("--console", "--spool", str(spool))
    assert agent.wait() == 2
    (damaged,) = disk.glob("spool.db.damaged-*[0-9]")
    said = agent.stderr.splitlines()[-1]
    assert said.startswith(f"kaspan agent: agent.spool.path: {spool}")
    assert "make room" in said
    assert f"kaspan agent spool recover {damaged}" in said
    assert "Traceback" not in agent.stderr

    (disk / "filler").unlink()
    agent = deployment.start_agent("--console", "--spool", str(spool))
    wait_until(lambda: "reads rings" in agent.stderr, "the agent has started")
    recover = ("agent", "spool", "recover", "--spool", str(spool), str(damaged))
    assert f"{SENT} spans" in deployment.start("recover", KASPAN, *recover).finish()
    wait_until(lambda: agent.stdout.count(f"send {topic}") == SENT, f"{SENT} spans are printed")
    assert agent.terminate() == 0, agent.stderr


def test_agent_that_starts_on_a_full_disk_delivers_what_its_spool_holds(
    deployment: Deployment, broker: str, disk: Path
) -> None:
    """An agent killed with spans in its spool starts again on a full disk and delivers them."""
    topic = f"topic-{uuid.uuid4().hex}"
    spool = disk / "spool.db"
    nobody = f"http://127.0.0.1:{free_port()}"
    agent = deployment.start_agent("--zipkin", nobody, "--spool", str(spool))
    run_application(deployment, broker, topic)
    wait_until(lambda: list(deployment.ring_dir.iterdir()) == [], "the agent has taken the spans")
    agent.kill()
    fill(disk / "filler")

    agent = deployment.start_agent("--console", "--spool", str(spool))

    wait_until(lambda: agent.stdout.count(f"send {topic}") == SENT, f"{SENT} spans are printed")
    assert agent.terminate() == 0, agent.stderr
