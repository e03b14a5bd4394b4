"""A file system without locks, as some network file systems are."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest


def refuse_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no lock be given from now on, though nobody holds one."""

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
