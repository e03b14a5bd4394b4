"""Holds the unit tests to the marker `processes`: `make quick` runs those without it."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from support.program_guard import ProgramGuard

GUARD = ProgramGuard()
sys.addaudithook(GUARD)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    # pytest calls this for tests of other folders as well.
    is_unit = Path(__file__).parent in item.path.parents
    may_start = not is_unit or item.get_closest_marker("processes") or item.get_closest_marker("servers")
    GUARD.test = None if may_start else item.nodeid
    try:
        return (yield)
    finally:
        GUARD.test = None


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    refused, GUARD.refused = GUARD.refused, []
    assert not refused, f"programs were to be started; mark the test with @pytest.mark.processes: {refused}"


@pytest.fixture
def program_guard() -> ProgramGuard:
    """Give the guard of this run."""
    return GUARD
