"""The two implementations of what every record goes through: compiled, and in plain Python.

Both are there at once, so that a test takes one or compares both.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from kaspan.interceptor import accelerate, failures
from kaspan.interceptor.handover import arguments, hand_overs, points, tasks
from kaspan.interceptor.kafka import (
    consumer,
    open_sends,
    producer,
    record_list,
    record_scope,
    send_callbacks,
    send_span,
)
from kaspan.interceptor.reporters import ring, ring_writer

compiled = accelerate.compiled
"""None where nothing is compiled, or KASPAN_PURE_PYTHON is set."""

python: Any = SimpleNamespace(
    ConsumerLoop=record_scope.ConsumerLoop,
    ListLoop=record_scope.ListLoop,
    NextScope=record_scope.NextScope,
    OrdinarySends=send_span.OrdinarySends,
    RecordScope=record_scope.RecordScope,
    SendSpan=send_span.SendSpan,
    Sends=send_span.Sends,
    Writer=ring_writer.Writer,
    end_list=record_list.end_list,
    is_one=arguments.is_one,
    may_be_given=arguments.may_be_given,
    open_sends=open_sends.find_open_sends,
    refers_to=arguments.refers_to,
)

NAMES = ["compiled", "Python"] if compiled else ["Python"]

_USED = {
    consumer: ("ConsumerLoop", "NextScope"),
    hand_overs: ("is_one", "may_be_given", "refers_to"),
    open_sends: ("open_sends",),
    points: ("is_one", "may_be_given"),
    producer: ("OrdinarySends", "SendSpan", "Sends"),
    record_list: ("ListLoop",),
    ring: ("Writer",),
    send_callbacks: ("SendSpan",),
    tasks: ("is_one", "refers_to"),
}


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have one of `NAMES` used by all that is instrumented from now on; returns its classes and functions.

    Only the class of a record's span keeps its base as it is installed.
    """
    if name == "Python" and compiled is None:
        return python
    chosen = python if name == "Python" else compiled
    for module, used in _USED.items():
        for one in used:
            if one != "refers_to" or sys.version_info >= (3, 11):  # before, Python's own is used
                monkeypatch.setattr(module, one, getattr(chosen, one))
    monkeypatch.setattr(record_list.RecordList, "__del__", chosen.end_list)
    if chosen is python:
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
        failures.watch_finalizers()
    return chosen
