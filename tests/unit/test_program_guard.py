"""support.program_guard: a test that starts a program says so by its marker."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from support.program_guard import ProgramGuard
from support.programs import ProgramRunner

TRUE = [sys.executable, "-c", ""]
STARTS: dict[str, Callable[[], object]] = {
    "subprocess": lambda: subprocess.run(TRUE, check=True),
    "a shell": lambda: os.system("true"),  # noqa: S605 (refused)
    "posix_spawn": lambda: os.posix_spawn(TRUE[0], TRUE, {}),
    "exec": lambda: os.execv(TRUE[0], TRUE),  # noqa: S606 (refused)
    "a forked worker": multiprocessing.get_context("fork").Process(target=print).start,
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS.keys())
def test_unmarked_test_starts_no_program(start: Callable[[], object], program_guard: ProgramGuard) -> None:
    """However a test without the marker tries, no program begins, and the message says what to do."""
    with pytest.raises(pytest.fail.Exception, match=r"test_unmarked_.*mark it with @pytest\.mark\."):
        start()
    assert len(program_guard.refused) == 1
    program_guard.refused.clear()


@pytest.mark.processes
def test_marked_test_starts_programs() -> None:
    """The guard leaves a test alone that has the marker."""
    subprocess.run(TRUE, check=True)


def test_fixture_that_starts_programs_marks_its_tests(
    request: pytest.FixtureRequest, programs: ProgramRunner
) -> None:
    """A test that asks for such a fixture needs no marker of its own."""
    assert request.node.get_closest_marker("processes") is not None
    assert programs.plain("").returncode == 0
