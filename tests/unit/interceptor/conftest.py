"""A traced kafka-python without a broker, and the spans that it writes into a real ring."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.context import Context

from kaspan.interceptor import failures
from support import implementations
from support.kafka_clients import TracedClients, make_tracing
from support.ring_reader import RingReader


class Application(TracedClients):
    """A traced application: its clients, and `take()` for the spans it has made since the last call."""

    def __init__(self, ring_dir: Path, tracing: Any) -> None:
        super().__init__(tracing)
        self.ring_dir = ring_dir
        self.take = RingReader(ring_dir).take


@pytest.fixture(params=implementations.NAMES)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have a test run with the compiled classes, and with those in plain Python; gives them."""
    monkeypatch.setattr(failures._failures, "warned", set())  # each warns anew
    return implementations.use(request.param, monkeypatch)


@pytest.fixture
def is_compiled(implementation: Any) -> bool:
    """Tell which of the two it is."""
    return implementation is not implementations.python


@pytest.fixture(scope="session")
def shared_tracing(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], tuple[Path, Any]]:
    """Give the tracing of all tests with the default settings: each costs descriptors for good."""

    @functools.cache
    def make(is_compiled: bool) -> tuple[Path, Any]:
        ring_dir = tmp_path_factory.mktemp("shared") / "rings"
        return ring_dir, make_tracing(ring_dir)

    return make


@pytest.fixture
def application(
    shared_tracing: Callable[[bool], tuple[Path, Any]], is_compiled: bool
) -> Iterator[Application]:
    """Give an application with the default settings; every trace is recorded."""
    made = Application(*shared_tracing(is_compiled))
    made.take()
    yield made
    made.close()


@pytest.fixture
def configured(tmp_path: Path, implementation: Any) -> Callable[..., Application]:
    """Give a way to make an application with settings of its own."""

    def make(**settings: Any) -> Application:
        ring_dir = tmp_path / f"rings-{os.urandom(4).hex()}"
        return Application(ring_dir, make_tracing(ring_dir, **settings))

    return make


@pytest.fixture(autouse=True)
def no_span_outside() -> Iterator[None]:
    """Hold every test to the rule that outside of its loops no span is current."""
    context.attach(Context())
    yield
    left = trace.get_current_span()
    context.attach(Context())
    assert left is trace.INVALID_SPAN
