"""A process that a test starts and that runs beside it: its output, its signals, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.waiting import wait_until

EXIT_DEADLINE_S = 120.0


class RunningProcess:
    """One process in a group of its own, so that Ctrl-C ends the tests before their processes.

    Its stdout and stderr are appended to NAME.out and NAME.err in `directory`: no full pipe can stop it.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], directory: Path, name: str
    ) -> None:
        self.name = name
        self._out = directory / f"{name}.out"
        self._err = directory / f"{name}.err"
        with open(self._out, "ab") as out, open(self._err, "ab") as err:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def stdout(self) -> str:
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    def wait(self, deadline_s: float = EXIT_DEADLINE_S) -> int:
        """Block until the process has ended, and return its exit code, minus the signal that killed it."""
        return self.process.wait(deadline_s)

    def finish(self, deadline_s: float = EXIT_DEADLINE_S) -> str:
        """Block until the process has ended well, and return its stdout."""
        code = self.wait(deadline_s)
        assert code == 0, f"{self.name} ended with {code}:\n{self.stderr}"
        return self.stdout

    def terminate(self) -> int:
        """End the process by SIGTERM as an operator does, and return its exit code."""
        self.process.terminate()
        return self.wait()

    def is_running(self) -> bool:
        """Say whether the process is alive."""
        return self.process.poll() is None

    def end_group(self, how: signal.Signals, timeout_s: float) -> None:
        """Send a signal to the process and its children, SIGKILL after `timeout_s`; return when it ended."""
        # The group may be gone already when the process crashed; it must be reaped all the same.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End the process and its children by SIGKILL, and return when it is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def wait_for_lines(self, count: int, deadline_s: float = EXIT_DEADLINE_S) -> None:
        """Block until the process has written so many lines to stdout; fails when it ends before."""

        def written() -> bool:
            enough = self.stdout.count("\n") >= count
            assert enough or self.process.poll() is None, f"{self.name} ended early:\n{self.stderr}"
            return enough

        wait_until(written, f"{self.name} has written {count} lines", deadline_s)
