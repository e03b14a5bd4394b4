"""The processes that the demo starts: their output, and their end."""

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
    """A process of the demo failed or took too long; the message has its stderr."""


class Child:
    """One process; its stdout and stderr go to files in `directory`, since a full pipe would block it."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self._out = directory / f"{name}.out"
        self._err = directory / f"{name}.err"
        self._shown = 0
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            # In a new session Ctrl-C reaches only the demo, which then ends its children in order.
            self.process = subprocess.Popen(
                command,
                env=environment,
                # `python -m` imports from here first; the caller's folder may contain a kafka.py.
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def new_lines(self) -> list[str]:
        """Return the whole lines written to stdout since the last call."""
        with open(self._out, "rb") as out:
            out.seek(self._shown)
            whole = out.read().rpartition(b"\n")[0]
        if not whole:
            return []
        self._shown += len(whole) + 1
        return whole.decode(errors="replace").split("\n")

    def output(self) -> str:
        """Return the part of stdout that `new_lines` has not returned."""
        return self._out.read_bytes()[self._shown :].decode(errors="replace")

    def stderr(self) -> str:
        """Return the stderr so far."""
        return self._err.read_text(errors="replace")


class Children:
    """All processes of one run. Leaving the block ends them, by process id."""

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
        """Start a process; with `prints`, print each line of its stdout after its name. Does not block.

        Raises OSError if the command cannot be started.
        """
        self._interrupts.check()
        child = Child(name, command, environment, self._directory)
        self._all.append(child)
        if prints:
            self._printing.append(child)
        return child

    def wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Block until `condition()` is true, and print the children's lines meanwhile.

        Raises ChildError if a child fails or `timeout_s` seconds have passed, Interrupted after a signal.
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
        """Block until the given children have ended. Raises ChildError if one failed or is too slow."""
        names = ", ".join(child.name for child in children)
        self.wait(lambda: all(c.process.poll() is not None for c in children), f"{names} ended", timeout_s)
        self._check()

    def stderr_lines(self, start: str) -> list[str]:
        """Return the lines of stderr that begin with `start`, each after the name of its child."""
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
