"""What kaspan does when the process ends, in order. Modules add their function to a step of `ORDER`."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable

from kaspan.interceptor.failures import finish

HAND_OVERS, RECORDS, SENDS, REPORTER = ORDER = (
    # The spans of functions that were given a record: they are children of the record's span.
    "hand-overs",
    # The spans of records in work. The application may have been sending from there.
    "records in work",
    # The spans of sends that are not acknowledged yet.
    "open sends",
    # Last, since what comes after it is dropped: reports every span that the steps above have ended.
    "reporter",
)

_functions: dict[str, list[Callable[[], None]]] = {step: [] for step in ORDER}


def add(step: str, function: Callable[[], None]) -> None:
    """Call `function` in this step when the process ends. Raises KeyError if `ORDER` has no such step."""
    _functions[step].append(function)


@functools.cache
def register() -> None:
    """Register the steps with Python, once in a process.

    Called when kafka is imported: Python calls last what was registered first, so the steps follow what the
    application registers later, and kafka-python's producers, which close at exit.
    """
    atexit.register(_run)


def _run() -> None:
    raised: BaseException | None = None
    for step in ORDER:
        for function in list(_functions[step]):
            try:
                _end(step, function)
            except BaseException as error:  # noqa: BLE001 (the steps after it must follow)
                raised = error
    if raised is not None:
        raise raised


def _end(step: str, function: Callable[[], None]) -> None:
    try:
        function()
    except BaseException as error:  # noqa: BLE001 (an interrupted step is repeated)
        finish(f"ending {step}", error, function)
