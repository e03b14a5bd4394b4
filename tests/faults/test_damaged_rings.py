"""Files in the ring directory that were damaged in every way: nobody but who wrote them notices.

KASPAN_TEST_DAMAGED_RINGS asks for more of them than a usual run has.
"""

from __future__ import annotations

import os
import random
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.codec.json_lenient import InvalidSpansError
from kaspan.agent.codec.json_strict import json_batches
from kaspan.wire import ring as layout
from support.deployment import Deployment
from support.load import RingApplication
from support.process import RunningProcess
from support.raw_http import RawHttpClient
from support.ring_writer import RingWriter, span
from support.span_bodies import mutated
from support.waiting import wait_until
from support.zipkin_stub import Report, Response, ZipkinStub

DAMAGED_RINGS = int(os.environ.get("KASPAN_TEST_DAMAGED_RINGS", "600"))
AT_ONCE = 200
SPANS_EACH = 20
PEAK_MB = 80
NUMBERS_BYTES = 64
REJECTED = re.compile(r"/(bad-\d+\.ring) is not read: ")


def ring(path: Path, rng: random.Random, first: int) -> tuple[bytearray, set[str]]:
    """Make a ring of a writer that is gone, in one of ten cases one that wrote a broken span.

    Also gives the ids that must arrive: those beside a broken span; of a damaged ring nobody can say.
    """
    writer = RingWriter(path, "whole")
    numbers = range(first, first + SPANS_EACH)
    at = rng.choice(numbers) if rng.random() < 0.1 else -1
    for number in numbers:
        writer.put(broken(span(number), rng) if number == at else span(number))
    writer.die()
    raw = bytearray(writer.path.read_bytes())
    writer.path.unlink()
    if at < 0:
        return damaged(raw, rng), set()
    return raw, {f"{number:016x}" for number in numbers if number != at}


def broken(payload: bytes, rng: random.Random) -> bytes:
    """What a broken writer puts into a ring as a span: text that ends the JSON list early, or is cut off."""
    return rng.choice(
        (mutated(payload, rng), payload + b"]", payload[: rng.randrange(1, len(payload))], b"[]")
    )


def damaged(raw: bytearray, rng: random.Random) -> bytearray:
    """Damage the bytes of a ring where it hurts: its numbers, its description, its frames, or its length."""
    written = int.from_bytes(raw[layout.WRITE_POS : layout.WRITE_POS + 8], "little")
    where = rng.randrange(5)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if where == 0:
            raw[rng.randrange(NUMBERS_BYTES)] = rng.randrange(256)
        elif where == 1:
            value = rng.choice((0, 1, 8, 1 << 16, 1 << 32, 1 << 62, (1 << 64) - 8, rng.getrandbits(64)))
            struct.pack_into("<Q", raw, rng.randrange(0, NUMBERS_BYTES, 8), value)
        elif where == 2:
            raw[NUMBERS_BYTES : NUMBERS_BYTES + 32] = mutated(bytes(raw[NUMBERS_BYTES:][:32]), rng)[:32]
        elif where == 3:
            raw[layout.HEADER_BYTES + rng.randrange(written)] ^= 1 << rng.randrange(8)
        else:
            del raw[rng.choice((0, 7, 100, 4096, 5000, len(raw) - 1)) :]
            break
    return raw


def as_zipkin(report: Report) -> Response:
    """Take what Zipkin takes; tests of the receiver hold the rules against a real one."""
    try:
        for _ in json_batches(report.content, 1 << 20):
            pass
    except InvalidSpansError as invalid:
        return Response(400, str(invalid))
    return Response()


@pytest.fixture
def zipkin_stub() -> Iterator[ZipkinStub]:
    zipkin_stub = ZipkinStub(as_zipkin)
    yield zipkin_stub
    zipkin_stub.close()


def peak_mb(agent: RunningProcess) -> float:
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_damaged_rings_are_counted_and_disturb_nobody(
    deployment: Deployment, zipkin_stub: ZipkinStub, tmp_path: Path
) -> None:
    """Each is taken as far as it is whole, or named once and counted; the spans of others all arrive."""
    rng = random.Random(12)
    deployment.ring_dir.mkdir(mode=0o700)
    socket_path = str(tmp_path / "agent.sock")
    agent = deployment.start_agent("--zipkin", zipkin_stub.url, KASPAN_AGENT__SOCKET=socket_path)
    good = RingApplication(deployment.ring_dir, "good.ring", 1 << 40, pause_s=0.005)
    rejected: set[str] = set()
    expected: set[str] = set()
    for first in range(0, DAMAGED_RINGS, AT_ONCE):
        names = [f"bad-{number}.ring" for number in range(first, first + AT_ONCE)]
        for index, name in enumerate(names, first):
            made = tmp_path / name
            content, whole = ring(tmp_path, rng, 1 + index * SPANS_EACH)
            made.write_bytes(content)
            expected |= whole
            os.rename(made, deployment.ring_dir / name)

        def is_over(names: list[str] = names) -> bool:
            assert agent.process.poll() is None, agent.stderr[-3000:]
            there = {name for name in names if (deployment.ring_dir / name).exists()}
            return there <= set(REJECTED.findall(agent.stderr))

        wait_until(is_over, "all damaged rings to be removed or named", every_s=0.2)
        for name in names:
            if (deployment.ring_dir / name).exists():
                rejected.add(name)
                (deployment.ring_dir / name).unlink()
    expected |= good.end()
    wait_until(lambda: expected <= set(zipkin_stub.stored), "the spans that are whole", 90.0)
    numbers = RawHttpClient(socket_path).get("/metrics").text
    assert f"kaspan_agent_ring_rejected_total {len(rejected)}\n" in numbers
    assert sorted(REJECTED.findall(agent.stderr)) == sorted(rejected)
    assert peak_mb(agent) < PEAK_MB
    said = {what: agent.stderr.count(what) for what in ("is damaged", "no JSON objects", "refuses")}
    print(
        f"{DAMAGED_RINGS} damaged rings: {len(rejected)} rejected, {said}; {len(expected)} spans beside them "
        f"arrived; peak {peak_mb(agent):.0f} MB"
    )
    assert agent.terminate() == 0, agent.stderr[-3000:]
    assert "Traceback" not in agent.stderr
