"""What tests of every kind may ask for: real servers, started once for the run, and processes of kaspan's."""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from support.deployment import Deployment
from support.programs import ProgramRunner
from support.zipkin_stub import ZipkinStub

if TYPE_CHECKING:
    # Not loaded for runs that want no server: `servers` imports kafka-python.
    from servers import KafkaServer, Servers, ZipkinServer

# No test asserts a time, neither its own nor Hypothesis': a busy machine is not a fault.
settings.register_profile(
    "untimed",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("untimed")
# For `make quick`, by --hypothesis-profile; `make test` tries four times as many examples.
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=25)

STARTING_FIXTURES = {"programs", "deployment", "disk", "small_disk", "memory", "wheel"}
"""Tests that ask for one of these start programs: disks call `mount`, the wheel is built."""

NOT_TESTED = pytest.StashKey[str]()
"""Why the servers cannot run here; said in one line at the end of the run."""


def fixtures_of(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark the tests that need servers or start programs, known by the fixtures they ask for."""
    fixtures = fixtures_of(item)
    if "started_servers" in fixtures:
        item.add_marker(pytest.mark.servers)
    if not fixtures.isdisjoint(STARTING_FIXTURES):
        item.add_marker(pytest.mark.processes)


def pytest_collection_finish() -> None:
    """Leave what collecting has made out of every later `gc.collect()`, of which tests call hundreds."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """Leave what the files before have left out as well: else a collection takes 50 times as long."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Generator[None, None, None]:
    yield  # everything else: this belongs where it is seen
    said = config.stash.get(NOT_TESTED, None)
    if said is not None:
        terminalreporter.section("NOT TESTED", yellow=True, bold=True)
        terminalreporter.line(said, yellow=True, bold=True)


@pytest.fixture(scope="session")
def started_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """Start, side by side, the servers that this run's tests ask for; the fixtures below wait for each."""
    from servers import Servers, ServersMissingError, fetch_jars

    try:
        jars = fetch_jars()
    except ServersMissingError as missing:
        request.config.stash[NOT_TESTED] = f"Nothing is tested on real Kafka and real Zipkin: {missing}"
    if (said := request.config.stash.get(NOT_TESTED, None)) is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(said, pytrace=False)
        pytest.skip("real Kafka and real Zipkin are missing")
    servers = Servers(jars, tmp_path_factory.mktemp("servers"))
    try:
        servers.start(
            {"kafka", "zipkin"} & {name for item in request.session.items for name in fixtures_of(item)}
        )
        yield servers
    finally:
        servers.stop()


@pytest.fixture
def kafka(started_servers: Servers) -> KafkaServer:
    """Give the broker, running whatever the test before did to it."""
    return started_servers.kafka()


@pytest.fixture
def zipkin(started_servers: Servers) -> ZipkinServer:
    """Give Zipkin, running whatever the test before did to it; it has the spans of the tests before."""
    return started_servers.zipkin()


@pytest.fixture
def collecting_zipkin(kafka: KafkaServer, started_servers: Servers) -> ZipkinServer:
    """Give a Zipkin that takes spans from the broker's topic zipkin as well as by HTTP."""
    return started_servers.collecting_zipkin()


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """Give an empty ring directory and spool, and end every process that was started on them."""
    made = Deployment(tmp_path)
    yield made
    made.close()


@pytest.fixture
def programs(tmp_path: Path) -> ProgramRunner:
    """Give a directory from which programs are started, plain or under `kaspan run`."""
    return ProgramRunner(tmp_path)


@pytest.fixture
def zipkin_stub() -> Iterator[ZipkinStub]:
    """Give a collector that accepts everything, unless the test tells it what to answer."""
    made = ZipkinStub()
    yield made
    made.close()
