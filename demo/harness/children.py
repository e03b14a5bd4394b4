"""The processes that the demo starts: their output, their end, and that none of them stays behind."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kaspan.demo.harness import DemoError
from kaspan.demo.harness.interrupts import Interrupts

POLL_INTERVAL_S = 0.02
TERMINATE_TIMEOUT_S = 5.0


class ChildError(DemoError):
    """A process of the demo failed or took too long; the message has what it wrote to stderr."""


class Child:
    """One process; stdout and stderr go to files in `directory`, so that no full pipe can stop it."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self._out = directory / f"{name}.out"
        self._err = directory / f"{name}.err"
        self._shown = 0
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            # A session of its own: Ctrl-C reaches the demo alone, which then ends its children in order.
            self.process = subprocess.Popen(
                command,
                env=environment,
                # `python -m` imports from here first, and the caller's folder may hold a kafka.py.
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def new_lines(self) -> list[str]:
        """Return the whole lines that came on stdout since the last call."""
        with open(self._out, "rb") as out:
            out.seek(self._shown)
            whole = out.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._shown += len(whole) + 1
        return whole.decode(errors="replace").split("\n")

    def output(self) -> str:
        """Return all of stdout that `new_lines` has not returned."""
        return self._out.read_bytes()[self._shown :].decode(errors="replace")

    def stderr(self) -> str:
        """Return what came on stderr so far."""
        return self._err.read_text(errors="replace")


class Children:
    """Every process of one run. Leaving the block ends them all, by process id."""

    def __init__(self, directory: Path, interrupts: Interrupts) -> None:
        self._directory = directory
        self._interrupts = interrupts
        self._all: list[Child] = []
        self._printing: list[Child] = []

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._all:
            child.process.terminate()
        for child in self._all:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(TERMINATE_TIMEOUT_S)
            child.process.kill()
            child.process.wait()

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, prints: bool = False
    ) -> Child:
        """Start a process; with `prints` its stdout is shown line by line behind its name. Does not block.

        Raises OSError when the command cannot be started.
        """
        self._interrupts.check()
        child = Child(name, command, environment, self._directory)
        self._all.append(child)
        if prints:
            self._printing.append(child)
        return child

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Block until `condition()` is true, showing the children's lines as they come.

        Raises ChildError when a child fails or `timeout_s` seconds have passed, Interrupted when a signal
        has come.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            done = condition()
            self._show()
            if done:
                return
            self._interrupts.check()
            self._check()
            if time.monotonic() > deadline:
                raise ChildError(f"{what}: not within {timeout_s:g} s{self._all_stderr()}")
            time.sleep(POLL_INTERVAL_S)

    def wait_for_exit(self, children: Sequence[Child], timeout_s: float) -> None:
        """Block until the given children have ended; ChildError when one failed or is too slow."""
        names = ", ".join(child.name for child in children)
        self.wait(lambda: all(c.process.poll() is not None for c in children), f"{names} ended", timeout_s)
        self._check()

    def stderr_lines(self, start: str) -> list[str]:
        """Return the lines on the children's stderr that begin with `start`, each behind its child's name."""
        every = [(child.name, line) for child in self._all for line in child.stderr().splitlines()]
        return [f"{name}: {line}" for name, line in every if line.startswith(start)]

    def _show(self) -> None:
        for child in self._printing:
            for line in child.new_lines():
                sys.stdout.write(f"  {child.name:<9} {line}\n")
        sys.stdout.flush()

    def _check(self) -> None:
        for child in self._all:
            code = child.process.poll()
            if code:
                said = child.stderr().strip() or "(it wrote nothing to stderr)"
                raise ChildError(f"{child.name} {_ending(code)}:\n{said}")

    def _all_stderr(self) -> str:
        said = ((child.name, child.stderr().strip()) for child in self._all)
        return "".join(f"\n{name} wrote:\n{text}" for name, text in said if text)


def _ending(code: int) -> str:
    return f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
