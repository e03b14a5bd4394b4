"""Applications and an agent as a user runs them: real processes of the installed `kaspan` command."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from support.waiting import wait_until

KASPAN = Path(sys.executable).with_name("kaspan")
EXIT_DEADLINE_S = 120.0


class Running:
    """One process in a group of its own; stdout and stderr go to files, so that no full pipe can stop it."""

    def __init__(
        self, command: list[str], environment: Mapping[str, str], directory: Path, name: str
    ) -> None:
        self.name = name
        self._out = directory / f"{name}.out"
        self._err = directory / f"{name}.err"
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
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


class Deployment:
    """One ring directory, one spool, and the processes that share them under `directory`.

    `environment` is what every process gets: settings of kaspan's that the user of the tests has in theirs
    do not count.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ring_dir = directory / "rings"
        self.spool_path = directory / "spool.db"
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("KASPAN_", "OTEL_"))
        }
        self.environment |= {
            "KASPAN_INTERCEPTOR__RING_DIR": str(self.ring_dir),
            "KASPAN_AGENT__RING_DIRS": f"[{self.ring_dir}]",
            "KASPAN_AGENT__SPOOL__PATH": str(self.spool_path),
            "KASPAN_AGENT__LISTEN": "",
            "KASPAN_AGENT__SOCKET": "",
            "KASPAN_AGENT__BATCH__FLUSH_INTERVAL_S": "0.1",
        }
        self._running: list[Running] = []

    def start(self, name: str, *command: str | Path, **variables: str) -> Running:
        """Start a command as it is, without kaspan; `variables` are added to its environment."""
        words = [str(word) for word in command]
        # A name may come twice, and each process keeps its own output.
        unique = f"{len(self._running)}-{name}"
        running = Running(words, {**self.environment, **variables}, self.directory, unique)
        self._running.append(running)
        return running

    def start_traced(self, service: str, *command: str | Path, **variables: str) -> Running:
        """Start a command under `kaspan run --service SERVICE`."""
        return self.start(service, KASPAN, "run", "--service", service, "--", *command, **variables)

    def start_agent(self, *arguments: str, **variables: str) -> Running:
        """Start `kaspan agent` with these arguments."""
        return self.start("agent", KASPAN, "agent", *arguments, **variables)

    def close(self) -> None:
        """End whatever still runs."""
        for running in self._running:
            running.kill()


def python(*arguments: str) -> list[str]:
    """Return the command line of this Python, which has kaspan installed, with these arguments."""
    return [sys.executable, *arguments]


def demo(name: str, *arguments: object) -> list[str]:
    """Return the command line of one of the demo's applications: orders, shipping or mailer."""
    return python("-m", f"kaspan.demo.shop.{name}", *(str(argument) for argument in arguments))
