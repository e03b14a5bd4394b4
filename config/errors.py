"""Errors and warnings about settings: all of them at once, one line each, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Side = Literal["interceptor", "agent"]
"""The program that reads the settings; each has its own section in them."""

_SECTIONS = ("interceptor", "agent")
MAX_ERRORS = 100
MAX_SHOWN_CHARS = 80


class ConfigError(ValueError):
    """The settings are wrong. `errors` holds one line for each thing to correct."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))


class Errors:
    """Collects all errors and warnings, so that a user can correct everything after one run.

    A mistake in the other side's section is a warning. An unknown key is a warning for the interceptor,
    because an older interceptor may read the file of a newer agent. Of more than MAX_ERRORS lines the rest
    is only counted: such a file holds no settings.
    """

    def __init__(self, side: Side | None = None) -> None:
        self._side = side
        self._lines: list[str] = []
        self._warnings: list[str] = []
        self._foreign: list[str] = []
        self._left_out = 0

    @property
    def full(self) -> bool:
        """Whether further lines are only counted."""
        return len(self._lines) + len(self._warnings) + len(self._foreign) >= MAX_ERRORS

    @property
    def warnings(self) -> tuple[str, ...]:
        """The lines that do not keep the settings from being used."""
        more = (f"and {self._left_out} more like these",) if self._left_out else ()
        return (*self._warnings, *self._foreign, *more)

    @property
    def foreign_warnings(self) -> tuple[str, ...]:
        """The warnings about variables that may belong to another program."""
        return tuple(self._foreign)

    def add(self, where: str, what: str, key: str = "", is_unknown: bool = False) -> bool:
        """Add the mistake `what` at `where`: a file and line, a variable, or the command line.

        `key` is the dotted key that it is about; `is_unknown` means that no such key exists. Returns
        whether it is an error; else it is a warning.
        """
        is_error = self._is_error(key, is_unknown)
        self._note(self._lines if is_error else self._warnings, f"{where}: {what}")
        return is_error

    def warn(self, where: str, what: str) -> None:
        """Add a warning, for both sides, about a variable that may belong to another program."""
        self._note(self._foreign, f"{where}: {what}")

    def extend(self, error: ConfigError, key: str = "") -> None:
        """Add the lines of an error that stopped the reading of a source, or of the value of `key`."""
        (self._lines if self._is_error(key, False) else self._warnings).extend(error.errors)

    def raise_if_any(self) -> None:
        """Raise ConfigError with all errors, and the warnings after them, if there is an error."""
        if self._lines:
            raise ConfigError((*self._lines, *self.warnings))

    def _is_error(self, key: str, is_unknown: bool) -> bool:
        section = key.partition(".")[0]
        if self._side is None:
            return True
        if section in _SECTIONS and section != self._side:
            return False
        return not (is_unknown and self._side == "interceptor")

    def _note(self, lines: list[str], line: str) -> None:
        if self.full:
            self._left_out += 1
        else:
            lines.append(line)


def suggest(name: str, known: Iterable[str]) -> str:
    """Make the end of a message about an unknown name: the most similar known name, else all known names."""
    known = sorted(known)
    close = closest(name, known)
    return f"did you mean {close}?" if close else f"known are {', '.join(known)}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to an unknown one; None if none is similar."""
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(known), n=1)
    return close[0] if close else None


def shorten(text: str) -> str:
    """Return any text so that it fits into one line of a message: cut off, and printable."""
    return printable(text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "...")


def printable(text: str) -> str:
    """Return the text, or its Python literal if it has characters that do not print."""
    return text if text.isprintable() else ascii(text)


def escaped(text: str) -> str:
    """Return text with escapes for characters that do not print, such as those that reverse its direction."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def escaped_json(text: str) -> str:
    """Return JSON on one line, with JSON's escapes for characters that do not print."""
    return text if text.isprintable() else "".join(map(_escaped_json, text))


def _escaped_json(char: str) -> str:
    import json

    if char in "\t\r\n":
        return " "  # valid JSON has these only between values
    return char if char.isprintable() else json.dumps(char)[1:-1]
