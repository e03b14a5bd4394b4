"""Disks without room."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def shared_memory(directory: Path, size: str) -> Iterator[Path]:
    """Give a file system in memory of a size such as 600k, mounted at `directory`, which is made."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "none", str(directory)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def free_bytes(path: Path) -> int:
    """Return how much of a file system is free."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def fill(path: Path) -> None:
    """Write a file until its disk is full."""
    with open(path, "wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    assert shutil.disk_usage(path.parent).free == 0
