"""What is said when settings are wrong: every error at once, one line each, never a secret."""

from __future__ import annotations

from collections.abc import Iterable

MAX_ERRORS = 100
MAX_SHOWN_CHARS = 80


class ConfigError(ValueError):
    """The settings are wrong. `errors` holds one line for each thing to correct."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(self.errors))


class Errors:
    """Collects error lines, so that one look at the output is enough to correct them all.

    More than MAX_ERRORS are counted and not kept: such a file is not one of settings at all.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._left_out = 0

    @property
    def full(self) -> bool:
        """Whether another line would be counted only."""
        return len(self._lines) >= MAX_ERRORS

    def add(self, where: str, what: str) -> None:
        """Note that `what` is wrong at `where`, a file and line, a variable or the command line."""
        if self.full:
            self._left_out += 1
        else:
            self._lines.append(f"{where}: {what}")

    def extend(self, error: ConfigError) -> None:
        """Note the lines of an error that ended the reading of one source."""
        self._lines.extend(error.errors)

    def raise_if_any(self) -> None:
        """Raise ConfigError with the lines added so far, if there are any."""
        if self._left_out:
            self._lines.append(f"and {self._left_out} more errors like these")
        if self._lines:
            raise ConfigError(self._lines)


def suggest(name: str, known: Iterable[str]) -> str:
    """End a sentence about an unknown name: the known one that looks like it, else all of them."""
    from difflib import get_close_matches

    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"the known ones are {', '.join(known)}"


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
