"""The switch between the compiled part and plain Python."""

from __future__ import annotations

import pytest

from kaspan.interceptor.accelerate import is_pure_python
from support.implementations import compiled
from support.programs import SEND, ProgramRunner
from support.ring_reader import RingReader

USED = """
import sys
from kaspan.interceptor.kafka import consumer, producer, record_list, send_callbacks
from kaspan.interceptor.reporters import ring
from kaspan.interceptor.tracing import span
used = [producer.SendSpan, send_callbacks.SendSpan, consumer.ConsumerLoop, record_list.ListLoop, ring.Writer,
        span.RecordSpan.__bases__[0]]
print({one.__module__ == "kaspan.interceptor.compiled" for one in used},
      "kaspan.interceptor.compiled" in sys.modules)
"""


def test_program_is_traced_in_plain_python_where_it_is_told_to(programs: ProgramRunner) -> None:
    """KASPAN_PURE_PYTHON=1 leaves the compiled part alone, which is not even loaded. No warning comes."""
    done = programs.traced(SEND + USED, KASPAN_PURE_PYTHON="1")

    assert (done.stdout, done.stderr) == ("{False} False\n", "")
    (span,) = RingReader(programs.ring_dir).take()
    assert span.name == "send orders"


@pytest.mark.skipif(compiled is None, reason="nothing of kaspan is compiled, or it is switched off")
@pytest.mark.parametrize("value", [None, "", "0"])
def test_program_is_traced_by_the_compiled_part_otherwise(programs: ProgramRunner, value: str | None) -> None:
    """Everything that was compiled is used, and nothing of it in Python."""
    done = programs.traced(SEND + USED, KASPAN_PURE_PYTHON=value)

    assert (done.stdout, done.stderr) == ("{True} True\n", "")


@pytest.mark.parametrize(
    ("value", "is_pure"),
    [("1", True), ("true", True), ("yes", True), ("0", False), ("False", False), ("off", False), ("", False)],
)
def test_switch_is_read_as_people_write_it(value: str, is_pure: bool) -> None:
    """Any value switches the compiled part off, but those that say no."""
    assert is_pure_python({"KASPAN_PURE_PYTHON": value}) is is_pure
