"""Disks without room."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with open(path, "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert shutil.disk_usage(path.parent).free == 0
