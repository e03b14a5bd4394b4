"""Processes that were started under `kaspan run` but do not load its hook, for `kaspan doctor`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kaspan.cli.install import InstallError, installed

MARK = "KASPAN_INJECT"
"""The variable that `kaspan run` sets to the folder of its hook."""

_RING_DIR = "KASPAN_INTERCEPTOR__RING_DIR"
_VALUE_IS_NEXT_WORD = ("-W", "-X")
_REST_IS_NOT_FLAGS = ("-W", "-X", "-c", "-m", "--")
_SKIPS_HOOK = set("IES")
"""Python's flags that ignore PYTHONPATH (-E, -I), or load no sitecustomize (-S)."""


def untraced_processes(processes: str = "/proc") -> list[str]:
    """Name each running Python that was started under `kaspan run` and is not traced, and the reason.

    Only processes that this user may inspect, and whose spans would go to the same ring directory.
    """
    try:
        if installed():
            return []  # `kaspan install` traces them all
    except InstallError:
        pass
    return list(_untraced(processes))


def _untraced(processes: str) -> Iterator[str]:
    for process in sorted(Path(processes).glob("[0-9]*")):
        try:
            environ = _words(process / "environ")
            command = _words(process / "cmdline")
            program = os.path.basename(os.readlink(process / "exe"))
        except OSError:
            continue  # it has ended, or belongs to another user
        variables = dict(word.partition("=")[::2] for word in environ)
        folder = variables.get(MARK)
        if folder and "python" in program and variables.get(_RING_DIR) == os.environ.get(_RING_DIR):
            why = _why(folder, variables.get("PYTHONPATH", ""), command)
            if why:
                yield f"{_named(program, command)} (pid {process.name}) was started under `kaspan run`, {why}"


def _words(file: Path) -> list[str]:
    return [os.fsdecode(word) for word in file.read_bytes().split(b"\0") if word]


def _why(folder: str, path: str, command: Sequence[str]) -> str:
    """The reason why this PYTHONPATH and command line do not load the hook in `folder`; empty if they do."""
    flag = _ignoring_flag(command)
    if flag:
        return f"and is not traced: with {flag} Python ignores PYTHONPATH (see `kaspan install`)"
    entries = path.split(":")
    if folder not in entries:
        return (
            f"and is not traced: its PYTHONPATH ({path or 'not set'}) lacks {folder}; let the program "
            "that starts it add to PYTHONPATH instead of replacing it"
        )
    for entry in entries[: entries.index(folder)]:
        if os.path.isfile(os.path.join(entry, "sitecustomize.py")):
            return (
                f"but {entry}/sitecustomize.py comes first and may hide kaspan's, as OpenTelemetry's does: "
                "put `kaspan run` after the other launcher"
            )
    return ""


def _options(command: Sequence[str]) -> tuple[list[str], list[str]]:
    """The options of Python in a command line (the last may be -c or -m), and the words after them."""
    words, options = list(command[1:]), []
    while words and words[0].startswith("-") and words[0] != "-":
        options.append(words.pop(0))
        if options[-1][:2] in ("-c", "-m"):
            break
        if options[-1] in _VALUE_IS_NEXT_WORD and words:
            words.pop(0)
    return options, words


def _named(program: str, command: Sequence[str]) -> str:
    """The program and what it runs, without its arguments, which may contain secrets."""
    options, words = _options(command)
    last = options[-1] if options else ""
    if last.startswith("-c"):
        return f"{program} -c ..."
    return " ".join([program, *(["-m"] if last == "-m" else []), *words[:1]])


def _ignoring_flag(command: Sequence[str]) -> str:
    options, _ = _options(command)
    flags = (word for word in options if word[:2] not in _REST_IS_NOT_FLAGS)
    return next((word for word in flags if _SKIPS_HOOK & set(word)), "")
