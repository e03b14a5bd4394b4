"""What happens when something of kaspan's own fails: the application never sees it.

The first failure of each kind is one warning in the log, the next ones are debug lines; all are counted,
and the count stands in the ring's header for the agent to report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger("kaspan")


class _Failures:
    def __init__(self) -> None:
        self.warned: set[str] = set()
        self.suppressed = 0
        self.tell: Callable[[int], None] | None = None


_failures = _Failures()


def suppress(doing: str, error: BaseException) -> None:
    """Note that `error` came while kaspan was `doing` something, and go on. Never raises."""
    _failures.suppressed += 1
    if _failures.tell is not None:
        _failures.tell(_failures.suppressed)
    level = logging.DEBUG if doing in _failures.warned else logging.WARNING
    _failures.warned.add(doing)
    traceback = level == logging.DEBUG
    log.log(level, "kaspan: %s failed: %s: %s", doing, type(error).__name__, error, exc_info=traceback)


def tell_suppressed(tell: Callable[[int], None] | None) -> None:
    """Call `tell` with the number of suppressed failures, now and whenever it grows; None to stop."""
    _failures.tell = tell
    if tell is not None:
        tell(_failures.suppressed)
