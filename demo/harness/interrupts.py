"""Ending by signal, without the race of an exception between starting a process and noting its id."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """A signal asked this process to end; `exit_code` is what a shell would report, 128 + its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """While entered, SIGINT, SIGTERM and SIGHUP are noted, and `check` raises Interrupted for the first.

    A signal that was ignored before (nohup) stays ignored. After the first, further ones change nothing, so
    that impatience does not cut the cleaning up short.
    """

    def __init__(self) -> None:
        self._first: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def check(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self._first is not None:
            raise Interrupted(self._first)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self._first is None:
            self._first = signum
