"""`kaspan doctor` names the processes that were started under `kaspan run` and are not traced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.programs import INJECT, KASPAN, ProgramRunner

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
WAIT = "import sys; print('up', flush=True); sys.stdin.read()"


@contextmanager
def running(programs: ProgramRunner, script: str) -> Iterator[int]:
    """Run a Python by a shell script under `kaspan run`; yields its process id."""
    (programs.directory / "start.sh").write_text(script)
    command = [KASPAN, "run", "--", "sh", programs.directory / "start.sh", sys.executable, WAIT]
    with subprocess.Popen(
        [str(word) for word in command],
        env=programs.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


def said(programs: ProgramRunner, pid: int) -> list[str]:
    """Return what doctor says of a process, without how it begins."""
    done = programs.run(sys.executable, "-m", "kaspan.cli.main", "doctor")
    lines = [line for line in done.stdout.splitlines() if f"(pid {pid})" in line]
    assert all(line.startswith(f"- python{VERSION} -c ... (pid {pid}) ") for line in lines)
    return [line.partition("was started under `kaspan run`, ")[2] for line in lines]


HIDDEN = {
    "PYTHONPATH replaced": (
        'PYTHONPATH=/app exec "$1" -c "$2"',
        "and is not traced: its PYTHONPATH (/app) lacks {inject}; let the program "
        "that starts it add to PYTHONPATH instead of replacing it",
    ),
    "PYTHONPATH emptied": (
        'PYTHONPATH= exec "$1" -c "$2"',
        "and is not traced: its PYTHONPATH (not set) lacks {inject}; let the program "
        "that starts it add to PYTHONPATH instead of replacing it",
    ),
    "variables ignored": (
        'exec "$1" -W ignore -I -c "$2"',
        "and is not traced: with -I Python ignores PYTHONPATH (see `kaspan install`)",
    ),
    "another agent's": (
        'PYTHONPATH={other}:$PYTHONPATH exec "$1" -c "$2"',
        "but {other}/sitecustomize.py comes first and may hide kaspan's, as OpenTelemetry's does: put "
        "`kaspan run` after the other launcher",
    ),
}


@pytest.mark.parametrize(("script", "expected"), HIDDEN.values(), ids=HIDDEN.keys())
def test_process_whose_hook_is_hidden_is_named(programs: ProgramRunner, script: str, expected: str) -> None:
    """Doctor says which process it is, what hides the hook, and what to do."""
    other = programs.directory / "other"
    other.mkdir()
    (other / "sitecustomize.py").write_text("")
    with running(programs, script.replace("{other}", str(other))) as pid:
        assert said(programs, pid) == [expected.format(inject=INJECT, other=other)]


@pytest.mark.parametrize("script", ['exec "$1" -c "$2"', 'PYTHONPATH=/app:$PYTHONPATH exec "$1" -c "$2"'])
def test_process_with_its_hook_is_not_named(programs: ProgramRunner, script: str) -> None:
    """Of a process that is traced doctor says nothing."""
    with running(programs, script) as pid:
        assert said(programs, pid) == []


def test_process_with_other_rings_is_not_named(programs: ProgramRunner, tmp_path: Path) -> None:
    """What writes its spans elsewhere is not what doctor was asked about."""
    with running(programs, 'PYTHONPATH= exec "$1" -c "$2"') as pid:
        assert said(programs, pid) != []
        programs.environment["KASPAN_INTERCEPTOR__RING_DIR"] = str(tmp_path / "others")
        assert said(programs, pid) == []
