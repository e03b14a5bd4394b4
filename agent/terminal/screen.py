"""Where lines are printed: a terminal, with its width and colours, or a file or pipe, as plain text."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console

from kaspan.agent.terminal.line import Line

_ASCII = str.maketrans("━╸╺┄─│├└╷…µ", "===.-||`|~u")


class Screen:
    """Prints lines to `stream`, standard output by default.

    With colours if that is a terminal that has them; NO_COLOR and FORCE_COLOR decide otherwise. Signs that
    the stream's encoding lacks become similar ones of ASCII, other characters question marks.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._console = Console(file=self._stream)
        is_coloured = self._console.is_terminal and not self._console.no_color
        self._is_coloured = is_coloured and self._console.color_system is not None
        self._encoding = getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def width(self) -> int:
        """The width in cells: the terminal's, or COLUMNS; 80 where neither is known."""
        return self._console.width

    @property
    def table_width(self) -> int | None:
        """The width for what programs read as well: None, for any, unless there is a terminal or COLUMNS."""
        return self.width if self._stream.isatty() or "COLUMNS" in os.environ else None

    def print(self, lines: Iterable[Line]) -> None:
        """Print lines, as they come. Raises OSError if the stream cannot be written."""
        for line in lines:
            text = line.coloured() if self._is_coloured else str(line)
            self._stream.write(f"{self._encodable(text)}\n")
        self._stream.flush()

    def _encodable(self, text: str) -> str:
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            return text.translate(_ASCII).encode(self._encoding, "replace").decode(self._encoding)
        return text
