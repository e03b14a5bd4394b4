"""What happens when the process ends: every step, in the listed order."""

from __future__ import annotations

import re
from pathlib import Path

from kaspan.interceptor import at_exit
from support.programs import ProgramRunner, outcome

INTERCEPTOR = Path(__file__).parents[3] / "interceptor"
EVERY_STEP = """
from kaspan.interceptor import at_exit
at_exit.register()
for step in reversed(at_exit.ORDER):
    at_exit.add(step, lambda step=step: print(step))
"""


def test_steps_run_in_the_listed_order(programs: ProgramRunner) -> None:
    """At exit the steps run in the order of the list, whatever module was loaded first."""
    assert outcome(programs.plain(EVERY_STEP)) == (0, "".join(f"{step}\n" for step in at_exit.ORDER), "")


def test_step_that_fails_leaves_the_others(programs: ProgramRunner) -> None:
    """An exception in one step is one warning, and the steps behind it run."""
    code = f"{EVERY_STEP}\nat_exit.add(at_exit.HAND_OVERS, lambda: 1 / 0)"
    done = programs.plain(code)
    assert done.stdout.splitlines() == list(at_exit.ORDER)
    assert "kaspan: ending hand-overs failed: ZeroDivisionError" in done.stderr


def test_exception_of_a_signal_handler_leaves_the_other_steps(programs: ProgramRunner) -> None:
    """Ctrl+C in one step is the application's: it is raised after the last step, and none is left out."""
    code = f"""{EVERY_STEP}
calls = []

def interrupted():
    calls.append(1)
    if len(calls) == 1:
        raise KeyboardInterrupt

at_exit.add(at_exit.HAND_OVERS, interrupted)"""
    done = programs.plain(code)
    assert done.stdout.splitlines() == list(at_exit.ORDER)
    assert "KeyboardInterrupt" in done.stderr


def test_every_step_is_used_by_one_module() -> None:
    """Each listed step is used by exactly one module."""
    names = re.search(r"^(.*) = ORDER = \($", (INTERCEPTOR / "at_exit.py").read_text(), re.MULTILINE)
    assert names is not None
    sources = "".join(file.read_text() for file in INTERCEPTOR.rglob("*.py"))
    for name in names[1].split(", "):
        assert sources.count(f"at_exit.add(at_exit.{name},") == 1, name
