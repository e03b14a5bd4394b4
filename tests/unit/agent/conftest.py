from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ring_agent import Agent
from rings import RingWriter


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    (tmp_path / "rings").mkdir(mode=0o700)
    agent = Agent(tmp_path / "rings")
    agent.tick()  # the first look flushes; tests begin with a full interval ahead
    yield agent
    agent.directory.close()


@pytest.fixture
def writer(agent: Agent) -> RingWriter:
    return RingWriter(agent.path, process=b'{"service":"orders"}')
