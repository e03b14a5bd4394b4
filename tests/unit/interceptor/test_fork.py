"""What a forked child resets: every step, in the listed order, registered in one place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kaspan.interceptor import fork
from support.programs import ProgramRunner, outcome
from support.ring_reader import RingReader

INTERCEPTOR = Path(__file__).parents[3] / "interceptor"
EVERY_STEP = """
import os
from kaspan.interceptor import fork
for step in reversed(fork.ORDER):
    fork.after_in_child(step, lambda step=step: print(step, flush=True))
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
"""


def test_steps_run_in_the_listed_order(programs: ProgramRunner) -> None:
    """In a child the steps run in the order of the list, whatever module was loaded first."""
    done = programs.plain(EVERY_STEP)
    assert done.stdout.splitlines() == list(fork.ORDER)


def test_step_that_fails_leaves_the_others(programs: ProgramRunner) -> None:
    """An exception in one step is one warning, and the steps behind it run."""
    code = f"from kaspan.interceptor import fork\nfork.after_in_child(fork.IDS, lambda: 1 / 0)\n{EVERY_STEP}"
    done = programs.plain(code)
    assert done.stdout.splitlines() == list(fork.ORDER)
    assert "kaspan: resetting span ids after a fork failed: ZeroDivisionError" in done.stderr


def test_step_that_is_not_listed_is_refused() -> None:
    """A module cannot register under a step that is not in the list."""
    with pytest.raises(KeyError, match="no such step"):
        fork.after_in_child("no such step", print)


def test_every_step_is_used_by_one_module() -> None:
    """Each listed step is used by exactly one module."""
    names = re.search(r"^(.*) = ORDER = \($", (INTERCEPTOR / "fork.py").read_text(), re.MULTILINE)
    assert names is not None
    sources = "".join(file.read_text() for file in INTERCEPTOR.rglob("*.py"))
    for name in names[1].split(", "):
        assert sources.count(f"fork.after_in_child(fork.{name},") == 1, name


def test_no_other_module_registers_with_python() -> None:
    """Only fork.py calls os.register_at_fork, so its list is complete."""
    sources = [*INTERCEPTOR.rglob("*.py"), *INTERCEPTOR.rglob("*.pyx"), *INTERCEPTOR.rglob("*.pxi")]
    callers = [file.name for file in sources if "register_at_fork" in file.read_text()]
    assert callers == ["fork.py"]


def test_child_forgets_what_the_parent_began(programs: ProgramRunner) -> None:
    """A child that forks with sends and records open reports only spans that it begins itself."""
    code = (
        "import os\nfrom support.kafka_clients import UnconnectedProducer\n"
        "producer = UnconnectedProducer(); producer.send('orders', b'value'); mine = producer.last\n"
        "pid = os.fork()\n"
        "mine.acknowledge()\n"
        "if pid: os.waitpid(pid, 0)\n"
    )
    assert outcome(programs.traced(code)) == (0, "", "")
    assert len(RingReader(programs.ring_dir).take()) == 1
