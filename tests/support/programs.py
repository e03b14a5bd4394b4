"""Small programs in a process of their own, as a user starts them: plain, and under `kaspan run`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from kaspan.interceptor.accelerate import PURE_PYTHON

KASPAN = Path(sys.executable).with_name("kaspan")
INJECT = Path(sys.prefix) / "share" / "kaspan" / "inject"
DEADLINE_S = 60

FIRST_CLIENT = "exec('try: kafka.KafkaProducer(nonsense=True)\\nexcept Exception: pass')"
"""Makes a client, for which tracing waits; kafka-python refuses the setting before it connects."""

TRACED = f"import kafka; {FIRST_CLIENT}; print(hasattr(kafka.KafkaProducer.send, '__wrapped__'))"
"""Prints whether kafka-python is patched once there is a client."""

SEND = """
from support.kafka_clients import UnconnectedProducer
producer = UnconnectedProducer()
producer.send("orders", b"value")
producer.last.acknowledge()
"""
"""Makes one span."""


class ProgramRunner:
    """A directory with rings in it, from which programs are started in a clean environment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ring_dir = directory / "rings"
        inherited = ("KASPAN_", "OTEL_", "PYTHON")
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if key == PURE_PYTHON or not key.startswith(inherited)
        }
        self.environment |= {
            "KASPAN_INTERCEPTOR__RING_DIR": str(self.ring_dir),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(
        self, *command: str | Path, input: str = "", cwd: Path | None = None, **variables: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; a variable that is None is taken out of the environment."""
        environment = {**self.environment, **variables}
        return subprocess.run(
            [str(word) for word in command],
            env={key: value for key, value in environment.items() if value is not None},
            cwd=cwd or self.directory,
            input=input,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
        )

    def plain(self, code: str, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        """Run Python code without kaspan."""
        return self.run(sys.executable, "-c", code, *arguments, **variables)

    def traced(self, code: str, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        """Run Python code under `kaspan run`."""
        return self.run(*self.kaspan_run(), "-c", code, *arguments, **variables)

    def kaspan_run(self) -> list[str | Path]:
        """Return the start of the command line of a traced Python, of the service `shop`."""
        return [KASPAN, "run", "--service", "shop", "--", sys.executable]

    def module(self, name: str, code: str) -> Path:
        """Write a module that programs can import, and return its path."""
        path = self.directory / "modules" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        self.environment["PYTHONPATH"] = f"{self.directory / 'modules'}:{Path(__file__).parents[1]}"
        return path


def outcome(done: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    """Return all that a program lets its user see: exit code, output, errors."""
    return done.returncode, done.stdout, done.stderr
