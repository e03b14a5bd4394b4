"""Where the demo leaves its span store, for commands that look at the traces afterwards."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from kaspan.demo.harness import DemoError
from kaspan.store.lock import StoreError, acquire_lock


class NotKeptError(DemoError):
    """The store cannot be left at its place; the message says why."""


def place() -> Path:
    """Return the directory, one for each user, among the temporary files."""
    return Path(tempfile.gettempdir(), f"kaspan-demo-{os.geteuid()}")


def keep(store: Path) -> Path:
    """Move a store that nobody writes to its place, in the same file system, and return that.

    A store that was there is deleted. Raises NotKeptError if a process writes that one, or if what is there
    is not a directory of this user.
    """
    kept = place()
    try:
        _delete(kept)
        store.rename(kept)
    except StoreError as error:
        raise NotKeptError(
            f"{kept} is used by another process, such as `kaspan server`; stop that"
        ) from error
    except OSError as error:
        raise NotKeptError(f"{kept} cannot be replaced: {error.strerror}") from error
    return kept


def _delete(kept: Path) -> None:
    try:
        status = kept.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise NotKeptError(f"{kept} is not a directory of this user")
    lock = acquire_lock(str(kept))
    try:
        shutil.rmtree(kept)
    finally:
        os.close(lock)
