"""The garbage collector ends a loop, which changes the context, at any moment; Python does not crash."""

from __future__ import annotations

import pytest

from support.programs import ProgramRunner

GIVE_UP_LOOPS = """
import gc, tempfile
from contextvars import ContextVar
from pathlib import Path
from support.kafka_clients import TracedClients, make_tracing

application = TracedClients(make_tracing(Path(tempfile.mkdtemp(dir=Path.cwd()))))
variables = [ContextVar(str(number)) for number in range(20)]
for variable in variables:
    variable.set(0)

def give_up_a_loop():
    loop = iter(application.consumer(application.records(2)))
    next(loop)
    cycle = [loop]
    cycle.append(cycle)

gc.freeze()
gc.disable()
for step in range(400):
    gc.collect()
    give_up_a_loop()
    gc.set_threshold(gc.get_count()[0] + step % 10, 1000, 1000)
    gc.enable()  # a collection begins at the next allocation but so many, in set() or before it
    variables[step % 20].set(step)
    gc.disable()
print({step - variable.get() for step, variable in zip(range(380, 400), variables)})
"""


@pytest.mark.parametrize("pure_python", [None, "1"], ids=["compiled", "Python"])
def test_loop_that_is_collected_while_a_variable_is_set_crashes_nothing(
    programs: ProgramRunner, pure_python: str | None
) -> None:
    """Before Python 3.12 a collection may begin within ContextVar.set(), which holds nothing it reads."""
    # Freed memory is overwritten, so that reading it is a crash for certain.
    done = programs.plain(GIVE_UP_LOOPS, PYTHONMALLOC="debug", KASPAN_PURE_PYTHON=pure_python)

    assert (done.returncode, done.stdout, done.stderr) == (0, "{0}\n", "")
