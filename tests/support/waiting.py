"""Waiting for what another process does: on a condition, with a deadline, never for a fixed time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TooLateError(AssertionError):
    """A condition was not met before its deadline."""


def wait_until(condition: Callable[[], T], what: str, deadline_s: float = 30.0, every_s: float = 0.05) -> T:
    """Block until `condition()` is true (not falsy) and return its value.

    Asks every `every_s` seconds for at most `deadline_s` seconds, and at least once. An exception of the
    condition goes to the caller.

    Raises:
        TooLateError: naming `what` was waited for and the last value the condition had.
    """
    end = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise TooLateError(f"{what}: not within {deadline_s:g} s; the last answer was {value!r}")
        time.sleep(every_s)
