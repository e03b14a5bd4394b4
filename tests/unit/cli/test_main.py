"""The `kaspan` command, before and after what each of its commands does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaspan.wire import VERSION
from support.programs import KASPAN, ProgramRunner, outcome

MAIN = (sys.executable, "-m", "kaspan.cli.main")
SPEAKING = [
    ["--help"],
    ["--version"],
    ["config"],
    ["config", "--format", "yaml"],
    ["config", "--help"],
    ["doctor"],
    ["demo", "--help"],
    ["uninstall"],
    ["agent", "--help"],
    ["server", "--help"],
    ["trace", "--help"],
    ["traces", "--help"],
    ["agent", "dead-letter", "list", "--help"],
]


def run_into(
    programs: ProgramRunner, stdout: int | None, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MAIN, *arguments],
        env=programs.environment,
        cwd=programs.directory,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("arguments", SPEAKING, ids=" ".join)
def test_output_that_nobody_reads_on_ends_the_command_quietly(
    programs: ProgramRunner, arguments: list[str]
) -> None:
    """`kaspan doctor | head -1` prints no traceback; the code is that of a command that SIGPIPE ends."""
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    try:
        done = run_into(programs, writing_end, *arguments)
    finally:
        os.close(writing_end)

    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("arguments", SPEAKING, ids=" ".join)
def test_output_that_cannot_be_written_is_an_error_in_one_line(
    programs: ProgramRunner, arguments: list[str]
) -> None:
    """On a full disk a command fails with a message: half an output must not look complete."""
    with open("/dev/full", "w") as full:
        done = run_into(programs, full.fileno(), *arguments)

    said = "kaspan: the output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_closed_output_is_no_error(programs: ProgramRunner) -> None:
    """A command whose output is closed still does its work."""
    done = programs.run("sh", "-c", 'exec "$@" >&-', "sh", *MAIN, "config")

    assert outcome(done) == (0, "", "")


@pytest.mark.parametrize("option", ["--version", "-V", "version"])
def test_version_names_kaspan_and_its_python(programs: ProgramRunner, option: str) -> None:
    """What a report of a problem begins with."""
    done = programs.run(*MAIN, option)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"kaspan {VERSION}, Python ")
    assert str(Path(sys.executable)) in done.stdout


def test_version_is_had_by_the_shell_script(programs: ProgramRunner) -> None:
    """`kaspan --version` is not taken for an option of `kaspan run`."""
    assert programs.run(KASPAN, "--version").stdout.startswith(f"kaspan {VERSION}")


@pytest.mark.parametrize("arguments", [[], ["no-such-command"]])
def test_unknown_command_is_refused_with_the_usage(programs: ProgramRunner, arguments: list[str]) -> None:
    """Exit code 2, and what there is."""
    done = programs.run(*MAIN, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: kaspan COMMAND" in done.stderr
