"""Zipkin's own tests of a span store, against `kaspan server` by HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest

from servers import Servers
from servers.kaspan import KaspanServer
from servers.zipkin import StorageSettings
from servers.zipkin_kit import ServerFactory, run_kit

KIT = {
    "ITAutocompleteTags": 2,
    "ITDependencies": 24,
    "ITDependenciesHeavy": 1,
    "ITSearchEnabledFalse": 4,
    "ITServiceAndSpanNames": 13,
    "ITSpanStore": 28,
    "ITSpanStoreHeavy": 2,
    "ITStrictTraceIdFalse": 5,
    "ITTraces": 6,
}
"""The classes of the kit, and how many tests each has."""


@pytest.fixture(scope="module")
def outcomes(
    started_servers: Servers, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, dict[str, str]]]:
    """Run the whole kit, each of its tests on a server of its own; give what failed, by class and test."""
    numbers = count()

    def make(settings: StorageSettings) -> KaspanServer:
        return KaspanServer(tmp_path_factory.mktemp(f"server-{next(numbers)}"), settings)

    factory = ServerFactory(make)
    try:
        yield run_kit(factory.url, tmp_path_factory.mktemp("reports"))
    finally:
        factory.close()


@pytest.mark.parametrize("name", KIT)
def test_kaspan_passes_zipkins_tests_of_a_span_store(outcomes: dict[str, dict[str, str]], name: str) -> None:
    """Every test of the class passes."""
    failed = {test: said for test, said in outcomes[name].items() if said}
    assert not failed, "\n\n".join(f"{test}: {said[:2000]}" for test, said in failed.items())
    assert len(outcomes[name]) == KIT[name]
