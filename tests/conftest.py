"""Real Kafka and real Zipkin, each started once for the run and only if a test of the run wants it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    # Not loaded for runs that want no server: `servers` imports kafka-python.
    from servers import KafkaServer, ZipkinServer
    from servers.running import Servers

FIXTURES = {"kafka", "zipkin"}


def wanted_servers(items: list[pytest.Item]) -> set[str]:
    return {name for item in items for name in getattr(item, "fixturenames", ())} & FIXTURES


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if wanted_servers([item]):
            item.add_marker(pytest.mark.servers)


@pytest.fixture(scope="session")
def started_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    """Start, side by side, the servers that this run's tests ask for; the fixtures below wait for each."""
    from servers import ServersMissingError, fetch_jars
    from servers.running import Servers

    try:
        jars = fetch_jars()
    except ServersMissingError as missing:
        said = f"nothing is tested on real Kafka and real Zipkin: {missing}"
        if os.environ.get("CI") == "true":
            pytest.fail(said, pytrace=False)
        pytest.skip(said)
    servers = Servers(jars, tmp_path_factory.mktemp("servers"))
    try:
        servers.start(wanted_servers(request.session.items))
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
