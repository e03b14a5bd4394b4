"""Refuses to start a program in a test that is not marked `processes`, so that `make quick` stays quick."""

from __future__ import annotations

from typing import Any

import pytest

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"})
"""Audit events that Python raises before a process begins or becomes another program.

The start methods spawn and forkserver of multiprocessing raise none: mark their tests with care.
"""


class ProgramGuard:
    """An audit hook (`sys.addaudithook`) for the whole run; `test`: the unmarked test that runs now, if any.

    What it refuses, it also keeps in `refused`: a test may run in code that survives every exception.
    """

    def __init__(self) -> None:
        self.test: str | None = None
        self.refused: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STARTS and self.test is not None:
            self.refused.append(f"{event}{arguments[:2]}")
            pytest.fail(f"{self.test} starts a program ({event}): mark it with @pytest.mark.processes")
