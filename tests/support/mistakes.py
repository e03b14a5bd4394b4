"""What users get wrong: settings files and directories, each with the words that must be said about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NOBODY_UID = 65534


class Mistake(NamedTuple):
    """Variables that bring the mistake into a process, and what a message about it must contain."""

    variables: dict[str, str]
    said: tuple[str, ...]


def _settings(text: str, *said: str) -> Callable[[Path], Mistake]:
    def make(directory: Path) -> Mistake:
        path = directory / "kaspan.yaml"
        path.write_text(text)
        return Mistake({"KASPAN_CONFIG": str(path)}, (f"{path}:", *said))

    return make


def missing_file(directory: Path) -> Mistake:
    path = str(directory / "nowhere.yaml")
    return Mistake({"KASPAN_CONFIG": path}, (path, "No such file"))


def directory_for_a_file(directory: Path) -> Mistake:
    return Mistake({"KASPAN_CONFIG": str(directory)}, (str(directory), "directory"))


def bytes_that_are_no_text(directory: Path) -> Mistake:
    path = directory / "kaspan.yaml"
    path.write_bytes(b"service: \xff\xfe\n")
    return Mistake({"KASPAN_CONFIG": str(path)}, (str(path), "UTF-8"))


def _variable(name: str, value: str, *said: str) -> Callable[[Path], Mistake]:
    return lambda _: Mistake({name: value}, (name, *said))


OF_BOTH: dict[str, Callable[[Path], Mistake]] = {
    "unreadable YAML": _settings("service: [orders\n", ":2"),
    "a tab that indents": _settings("interceptor:\n\tenabled: true\n", ":2"),
    "a list for the whole file": _settings("- service: orders\n", "map"),
    "missing file": missing_file,
    "a directory for a file": directory_for_a_file,
    "bytes that are no text": bytes_that_are_no_text,
}
OF_APPLICATION: dict[str, Callable[[Path], Mistake]] = {
    **OF_BOTH,
    "wrong type": _settings("interceptor:\n  ring_bytes: many\n", ":2:", "interceptor.ring_bytes", "many"),
    "negative rate": _settings(
        "interceptor:\n  sampling: {rate: -0.5}\n", ":2:", "interceptor.sampling.rate", "-0.5", "from 0 to 1"
    ),
    "negative rate in the environment": _variable(
        *("KASPAN_INTERCEPTOR__SAMPLING__RATE", "-0.5"),
        *("interceptor.sampling.rate", "-0.5", "from 0 to 1"),
    ),
}
OF_AGENT: dict[str, Callable[[Path], Mistake]] = {
    **OF_BOTH,
    "unknown key": _settings("agent:\n  ring_dirz: [/tmp]\n", ":2:", "agent.ring_dirz", "ring_dirs?"),
    "wrong type": _settings("agent:\n  max_connections: many\n", ":2:", "agent.max_connections", "many"),
    "negative time in the environment": _variable(
        *("KASPAN_AGENT__BATCH__FLUSH_INTERVAL_S", "-0.5"),
        *("agent.batch.flush_interval_s", "-0.5", "more than 0"),
    ),
    "unknown variable": _variable("KASPAN_AGENT_TOKEN", "secret-secret", "KASPAN_AGENT__TOKEN"),
}


def unwritable(directory: Path) -> Path:
    """Name a directory that cannot be made: root may write anywhere, but not below a file."""
    if os.geteuid() == 0:
        return a_file(directory) / "rings"
    locked = directory / "locked"
    locked.mkdir(mode=0o500)
    return locked / "rings"


def of_another_user(directory: Path) -> Path:
    """Name a directory of another user's: root can give one away, and for others root's will do."""
    if os.geteuid() != 0:
        return Path("/usr")
    given = directory / "given"
    given.mkdir(mode=0o700)
    os.chown(given, NOBODY_UID, NOBODY_UID)
    return given


def symlink(directory: Path) -> Path:
    (directory / "real").mkdir(mode=0o700)
    link = directory / "link"
    link.symlink_to("real")
    return link


def a_file(directory: Path) -> Path:
    path = directory / "file"
    path.touch()
    return path


def writable_by_others(directory: Path) -> Path:
    path = directory / "open"
    path.mkdir()
    path.chmod(0o777)
    return path


RING_DIRS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "unwritable": (unwritable, "cannot be"),
    "of another user": (of_another_user, "belongs to uid"),
    "a symlink": (symlink, "symlink"),
    "a file": (a_file, "director"),
    "writable by others": (writable_by_others, "0777"),
}
