"""kaspan.agent.receivers.ring_receiver with processors: between the rings and the spool."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.processors.build import build
from kaspan.agent.processors.chain import Chain
from kaspan.agent.receivers.ring_directory import RingDirectory
from kaspan.agent.receivers.ring_receiver import RingReceiver
from kaspan.agent.spool.spool import Spool
from kaspan.config.schema import Drop, Processor, Redact
from support.ring_writer import RingWriter, span

MAX_BYTES = 1024 * 1024
SECRET = b"4111111111111111"


class Agent:
    """A receiver with processors, between one ring and a real spool; its clock stands still."""

    def __init__(self, path: Path, *settings: Processor) -> None:
        (path / "rings").mkdir(mode=0o700)
        self.path = path
        self.chain: Chain = build(settings, {})
        self.spool = Spool(str(path / "spool.db"), MAX_BYTES)
        self.spool.register(["zipkin"])
        self.directory = RingDirectory(str(path / "rings"))
        self.now_s = 0.0
        self.receiver = RingReceiver(
            [self.directory], self.spool, 8192, 0.001, lambda: self.now_s, chain=self.chain
        )
        self.writer = RingWriter(path / "rings")

    def tick(self) -> None:
        """Let a little more time pass than anything waits for, and look."""
        self.now_s += 2
        self.receiver.tick()

    def stored(self) -> bytes:
        """Every byte that is in the spool's files, deleted or not."""
        return b"".join(path.read_bytes() for path in self.path.glob("spool.db*"))


@pytest.fixture
def agent(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Agent]:
    agent = Agent(tmp_path, *request.param)
    yield agent
    agent.spool.close()
    agent.directory.close()
    agent.writer.die()


@pytest.mark.parametrize("agent", [[Redact(values=("[0-9]{16}",))]], indirect=True)
def test_redacted_value_is_never_on_disk(agent: Agent) -> None:
    """The spool's files never hold what was redacted, while the rest of the span is there."""
    agent.writer.put(span(1).replace(b'"padding":""', b'"card":"%s"' % SECRET))
    agent.tick()
    assert agent.spool.totals.spans == 1
    assert b'"card":"***"' in agent.stored()
    assert SECRET not in agent.stored()


@pytest.mark.parametrize("agent", [[Drop(names=("send *",))]], indirect=True)
def test_dropped_spans_free_the_ring(agent: Agent) -> None:
    """A ring of spans that are all dropped is emptied, and they are counted."""
    while agent.writer.put(span(1)):
        agent.tick()
        if agent.chain.total.dropped["drop"] >= 3:
            break
    assert agent.writer.read_pos == agent.writer.write_pos
    assert agent.spool.totals.spans == 0


@pytest.mark.parametrize("agent", [[Drop(names=("receive *",))]], indirect=True)
def test_drops_of_a_full_spool_are_counted_once(agent: Agent) -> None:
    """Spans that the spool has no room for are processed again later, and their drops counted then."""
    kept, dropped = span(1, 30_000), span(2).replace(b"send", b"receive")
    while agent.spool.totals.spans * 30_000 < MAX_BYTES - 60_000:
        agent.writer.put(kept)
        agent.tick()
    agent.writer.put(dropped)
    for _ in range(2):
        agent.writer.put(kept)
    for _ in range(3):
        agent.tick()
    assert agent.writer.read_pos < agent.writer.write_pos
    message = agent.spool.read(0, MAX_BYTES)
    assert message is not None
    agent.spool.advance("zipkin", message.last_id)
    agent.spool.save()
    for _ in range(3):
        agent.tick()
    assert agent.writer.read_pos == agent.writer.write_pos
    assert agent.chain.total.dropped["drop"] == 1
