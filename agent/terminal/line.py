"""Lines of styled text that are safe to print, and their width in cells of a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from rich.cells import get_character_cell_size as cells_of_character

_CODES = {
    "": "",
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "magenta": "35",
    "cyan": "36",
    "bright_green": "92",
    "bright_yellow": "93",
    "bright_blue": "94",
    "bright_magenta": "95",
    "bright_cyan": "96",
}
ELLIPSIS = "…"


class Piece(NamedTuple):
    """Printable text in one style: a colour, `bold`, `dim`, or empty for none."""

    text: str
    style: str = ""


class Line:
    """Pieces from left to right, and the cells that they fill."""

    def __init__(self, *pieces: Piece) -> None:
        self.pieces: list[Piece] = []
        self.cells = 0
        for piece in pieces:
            self.add(*piece)

    def add(self, text: str, style: str = "", cells: int = 0, *, right: bool = False) -> Line:
        """Add text, which must be printable; shorter text is filled up to `cells`, at its left if `right`."""
        width = cells_of(text)
        blank = " " * (cells - width)
        if right and blank:
            self.pieces.append(Piece(blank))
        if text:
            self.pieces.append(Piece(text, style))
        if blank and not right:
            self.pieces.append(Piece(blank))
        self.cells += width + len(blank)
        return self

    def cropped(self, cells: int) -> Line:
        """Return the part that fits into `cells`, without blanks at its end."""
        line = Line()
        if self.cells <= cells:
            line.pieces = self.pieces.copy()
        else:
            for text, style in self.pieces:
                line.add(fit(text, cells - line.cells), style)
        while line.pieces:
            text, style = line.pieces.pop()
            if text.rstrip():
                line.pieces.append(Piece(text.rstrip(), style))
                break
        return line

    def __str__(self) -> str:
        return "".join(text for text, _ in self.pieces)

    def coloured(self) -> str:
        """Return the text with the escape sequences of its styles."""
        return "".join(
            f"\x1b[{_CODES[style]}m{text}\x1b[0m" if style else text for text, style in self.pieces
        )


def printable(text: str, max_characters: int) -> str:
    """Return the beginning of any text, with blanks in place of characters that do not print.

    A span's text comes from anywhere, and must not control the terminal or turn the direction of text.
    """
    text = text[:max_characters]
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)


def cells_of(text: str) -> int:
    """Return how many cells printable text fills: letters of East Asia fill two, combining marks none."""
    return len(text) if text.isascii() else sum(map(cells_of_character, text))


def fit(text: str, cells: int) -> str:
    """Return printable text, cut off with an ellipsis if it is wider than `cells`."""
    if cells_of(text) <= cells:
        return text
    return head(text, cells - 1) + ELLIPSIS if cells > 0 else ""


def head(text: str, cells: int) -> str:
    """Return as much of the beginning of printable text as fits into `cells`."""
    if text.isascii():
        return text[: max(0, cells)]
    filled = 0
    for index, character in enumerate(text):
        filled += cells_of_character(character)
        if filled > cells:
            return text[:index]
    return text


def wrap(text: str, cells: int) -> Iterator[str]:
    """Yield printable text in lines of at most `cells`, broken between words where that is possible."""
    cells = max(2, cells)  # a letter may fill two
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if cells_of(joined) <= cells:
            line = joined
            continue
        if line:
            yield line
        line = word
        while cells_of(line) > cells:
            first = head(line, cells)
            yield first
            line = line[len(first) :]
    if line:
        yield line
