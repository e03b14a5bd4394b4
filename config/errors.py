"""What is said when settings are wrong: every error at once, one line each, never a secret."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Side = Literal["interceptor", "agent"]
"""Which of the two reads the settings, and has a section of its own in them."""

_SECTIONS = ("interceptor", "agent")
MAX_ERRORS = 100
MAX_SHOWN_CHARS = 80


class ConfigError(ValueError):
    """The settings are wrong. `errors` holds one line for each thing to correct."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))


class Errors:
    """Collects what is wrong, so that one look at the output is enough to correct all of it.

    What is not for the side that reads the settings is a warning: it goes on without it. The interceptor
    goes on without unknown keys as well, since an older one may read the file of a newer one. More than
    MAX_ERRORS are counted and not kept: such a file is not one of settings at all.
    """

    def __init__(self, side: Side | None = None) -> None:
        self._side = side
        self._lines: list[str] = []
        self._warnings: list[str] = []
        self._of_others: list[str] = []
        self._left_out = 0

    @property
    def full(self) -> bool:
        """Whether another line would be counted only."""
        return len(self._lines) + len(self._warnings) + len(self._of_others) >= MAX_ERRORS

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong and stops nobody."""
        more = (f"and {self._left_out} more like these",) if self._left_out else ()
        return (*self._warnings, *self._of_others, *more)

    @property
    def of_others(self) -> tuple[str, ...]:
        """Of the warnings, those of what can be meant for another program."""
        return tuple(self._of_others)

    def add(self, where: str, what: str, key: str = "", is_unknown: bool = False) -> bool:
        """Note that `what` is wrong at `where`, a file and line, a variable or the command line.

        `key` is the dotted key of which it is said, and `is_unknown` whether there is none of that name.
        Returns whether it is an error, and not a warning.
        """
        is_error = self._is_error(key, is_unknown)
        self._note(self._lines if is_error else self._warnings, f"{where}: {what}")
        return is_error

    def leave(self, where: str, what: str) -> None:
        """Note what can be meant for another program: a warning to both sides."""
        self._note(self._of_others, f"{where}: {what}")

    def extend(self, error: ConfigError, key: str = "") -> None:
        """Note the lines of an error that ended the reading of one source, or of one key's value."""
        (self._lines if self._is_error(key, False) else self._warnings).extend(error.errors)

    def raise_if_any(self) -> None:
        """Raise ConfigError with the errors added so far, if there are any; warnings come with them."""
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
    """End a sentence about an unknown name: the known one that looks like it, else all of them."""
    known = sorted(known)
    close = closest(name, known)
    return f"did you mean {close}?" if close else f"the known ones are {', '.join(known)}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that looks like an unknown one, if there is one."""
    from difflib import get_close_matches

    close = get_close_matches(name, sorted(known), n=1)
    return close[0] if close else None


def shorten(text: str) -> str:
    """Make text that a stranger wrote fit for one line of a message."""
    return printable(text if len(text) <= MAX_SHOWN_CHARS else text[:MAX_SHOWN_CHARS] + "...")


def printable(text: str) -> str:
    """Return the text, or where a terminal could stumble over it, its Python literal."""
    return text if text.isprintable() else ascii(text)


def escaped(text: str) -> str:
    """Return text with escapes for characters that do not print, such as those that turn the order around."""
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def escaped_json(text: str) -> str:
    """Return JSON on one line, with escapes of JSON's own for characters that do not print."""
    return text if text.isprintable() else "".join(map(_escaped_json, text))


def _escaped_json(char: str) -> str:
    import json

    if char in "\t\r\n":
        return " "  # only between values, in what is JSON to the letter
    return char if char.isprintable() else json.dumps(char)[1:-1]
