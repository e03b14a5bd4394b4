"""The name of the program that this process runs."""

from __future__ import annotations

import os
import sys


def program_name() -> str:
    """Return the default name of the service: that of the program, without its folder and `.py`."""
    path = (getattr(sys, "argv", None) or [""])[0]
    folder, file = os.path.split(path)
    name = os.path.basename(folder) if file == "__main__.py" else file.removesuffix(".py")
    return name if name not in ("", "-c", "-m") else "python"
