from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.ring_agent import RingAgent
from support.ring_writer import RingWriter
from support.served_collector import ServedCollector


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[RingAgent]:
    (tmp_path / "rings").mkdir(mode=0o700)
    agent = RingAgent(tmp_path / "rings")
    agent.tick()  # the first look flushes; tests begin with a full interval ahead
    yield agent
    agent.directory.close()


@pytest.fixture
def writer(agent: RingAgent) -> RingWriter:
    return RingWriter(agent.path, process=b'{"service":"orders"}')


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., ServedCollector]]:
    """Give a function that starts a collector with these settings."""
    started: list[ServedCollector] = []

    def start(**settings: object) -> ServedCollector:
        served = ServedCollector(tmp_path, settings)
        served.start()
        started.append(served)
        return served

    yield start
    for served in started:
        served.stop()


@pytest.fixture
def served(serve: Callable[..., ServedCollector]) -> ServedCollector:
    """Give a collector with the default limits."""
    return serve()
