"""How signals end the demo. They raise no exception: it could come before the id of a new process is
stored.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any


class Interrupted(Exception):
    """A signal asked this process to end; `exit_code` is that of a shell, 128 + the signal's number."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = 128 + signum


class Interrupts:
    """Inside the block SIGINT, SIGTERM and SIGHUP are only noted; `check` raises Interrupted for the first.

    A signal that was ignored before (nohup) stays ignored. Further signals do nothing, so that the demo
    cleans up also if the user presses Ctrl-C twice.
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
