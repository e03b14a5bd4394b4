"""What kaspan resets in a forked child, in order. Modules add their function to a step of `ORDER`.

A child starts with a copy of its parent's memory, and with one thread: open spans are the parent's to report,
and a lock that another thread held is never released. Nothing here runs before the application forks.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from kaspan.interceptor.failures import is_from_outside, pass_on

IDS, REPORTER, RECORDS, OTEL_SPANS, OTEL_PROVIDER, ACTIVATION = ORDER = (
    # tracing/ids.py. First: no span of the child may have an id that the parent will use.
    "span ids",
    # reporters/process_reporter.py: the child's own ring, and the time of its start. From here on the
    # parent's open spans are not reported.
    "reporter",
    # kafka/consumer.py: the child forgets the parent's open records. It would end them at exit, for nothing.
    "open records",
    # otel/sdk.py: the same for spans of OpenTelemetry's API, by their own clock.
    "OpenTelemetry spans",
    # otel/tracer_proxy.py: the lock of a provider in the making. Its spans need ids and a reporter, so it
    # comes after those.
    "OpenTelemetry provider",
    # bootstrap/activation.py. Last: another client may switch tracing on only when everything above is the
    # child's own.
    "activation",
)

_in_child: dict[str, list[Callable[[], None]]] = {step: [] for step in ORDER}
_in_parent: list[Callable[[], None]] = []


def after_in_child(step: str, function: Callable[[], None]) -> None:
    """Call `function` in this step in every child. Raises KeyError if `ORDER` has no such step."""
    _in_child[step].append(function)


def after_in_parent(function: Callable[[], None]) -> None:
    """Call `function` in the parent after each fork."""
    _in_parent.append(function)


def keep_until_exit(held: object) -> None:
    """Keep an object while the process lives. Python frees what a fork hook refers to after all modules."""
    os.register_at_fork(before=lambda _held=held: None)


def _reset_child() -> None:
    for step in ORDER:
        for function in list(_in_child[step]):
            _call(f"resetting {step} after a fork", function)


def _tell_parent() -> None:
    for function in _in_parent:
        _call("noting a fork", function)


def _call(doing: str, function: Callable[[], None]) -> None:
    # Whatever happens in one step, the others must follow.
    try:
        function()
    except BaseException as error:  # noqa: BLE001 (Python would print it and go on)
        if is_from_outside(error):
            function()
        pass_on(doing, error)


os.register_at_fork(after_in_child=_reset_child, after_in_parent=_tell_parent)
