"""What happens when something of kaspan's own fails: the application never sees it.

The first failure of each kind is one warning in the log, the next ones are debug lines; all are counted,
and the count stands in the ring's header for the agent to report.
"""

from __future__ import annotations

import logging

log = logging.getLogger("kaspan")

_warned: set[str] = set()
_suppressed = 0


def suppress(doing: str, error: BaseException) -> None:
    """Note that `error` came while kaspan was `doing` something, and go on. Never raises."""
    global _suppressed  # noqa: PLW0603
    _suppressed += 1
    level = logging.DEBUG if doing in _warned else logging.WARNING
    _warned.add(doing)
    log.log(
        level,
        "kaspan: %s failed: %s: %s",
        doing,
        type(error).__name__,
        error,
        exc_info=level == logging.DEBUG,
    )


def warn_once(message: str) -> None:
    """Say `message` as a warning the first time, as a debug line after that."""
    level = logging.DEBUG if message in _warned else logging.WARNING
    _warned.add(message)
    log.log(level, "kaspan: %s", message)


def suppressed_errors() -> int:
    """How many failures the application did not see since the process started."""
    return _suppressed
