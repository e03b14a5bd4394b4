"""Applications and an agent as a user runs them: real processes of the installed `kaspan` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from support.process import RunningProcess

KASPAN = Path(sys.executable).with_name("kaspan")


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
        self._running: list[RunningProcess] = []

    def start(self, name: str, *command: str | Path, **variables: str) -> RunningProcess:
        """Start a command as it is, without kaspan; `variables` are added to its environment."""
        words = [str(word) for word in command]
        # A name may come twice, and each process keeps its own output.
        unique = f"{len(self._running)}-{name}"
        running = RunningProcess(words, {**self.environment, **variables}, self.directory, unique)
        self._running.append(running)
        return running

    def start_traced(self, service: str, *command: str | Path, **variables: str) -> RunningProcess:
        """Start a command under `kaspan run --service SERVICE`."""
        return self.start(service, KASPAN, "run", "--service", service, "--", *command, **variables)

    def start_agent(self, *arguments: str, **variables: str) -> RunningProcess:
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
