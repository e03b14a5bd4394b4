"""pip's list of kaspan's files, in which the one that `kaspan install` makes is entered.

So `pip uninstall kaspan` removes it too, and a kaspan that is installed again traces nobody by itself.
Nothing is entered where pip did not put kaspan into the same directory: the file stays then, and does nothing
without kaspan.

Source: Python packaging specifications, "Recording installed projects".
"""

from __future__ import annotations

import contextlib
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def enter(path: Path) -> None:
    """Enter a file. What cannot be written is left as it is."""
    _change(path, is_listed=True)


def strike(path: Path) -> None:
    """Undo `enter`."""
    _change(path, is_listed=False)


def _change(path: Path, is_listed: bool) -> None:
    record = _find(path.parent)
    if record is None:
        return
    line = f"{path.name},,\n"  # neither its hash nor its size is known to pip
    with contextlib.suppress(OSError):
        lines = [one for one in record.read_text("utf-8").splitlines(keepends=True) if one != line]
        temporary = record.with_suffix(f".{os.getpid()}")
        temporary.write_text("".join(lines) + line * is_listed, "utf-8")
        temporary.replace(record)


def _find(directory: Path) -> Path | None:
    try:
        files = distribution("kaspan").files or ()
    except PackageNotFoundError:
        return None
    found = (Path(str(file.locate())) for file in files if file.name == "RECORD")
    return next((file for file in found if file.parent.parent == directory and file.is_file()), None)
