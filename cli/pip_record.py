"""pip's list of kaspan's files (RECORD), to which `kaspan install` adds its own file.

So `pip uninstall kaspan` removes that file too, and tracing does not return when kaspan is installed again.
If pip has installed kaspan into another directory, the file is not added. It stays then, and does nothing
without kaspan.

Source: Python packaging specifications, "Recording installed projects".
"""

from __future__ import annotations

import contextlib
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path


def add(path: Path) -> None:
    """Add a file to the list. If the list cannot be written, it stays as it is."""
    _change(path, is_listed=True)


def remove(path: Path) -> None:
    """Remove a file from the list."""
    _change(path, is_listed=False)


def _change(path: Path, is_listed: bool) -> None:
    record = _find(path.parent)
    if record is None:
        return
    line = f"{path.name},,\n"  # without hash and size, which pip does not need
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
