from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.ring_agent import Agent
from support.ring_writer import RingWriter
from support.served_collector import Served


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


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Give a function that starts a collector with these settings."""
    started: list[Served] = []

    def start(**settings: object) -> Served:
        served = Served(tmp_path, settings)
        served.start()
        started.append(served)
        return served

    yield start
    for served in started:
        served.stop()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    """Give a collector with the default limits."""
    return serve()
