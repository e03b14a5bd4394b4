"""Locks a store for one writer: two would each delete what the other needs."""

from __future__ import annotations

import contextlib
import fcntl
import os

LOCK_NAME = "lock"


class StoreError(Exception):
    """The store cannot be used; the message names the directory, the reason, and what to do."""


class StoreHeld(StoreError):
    """Another process writes this store."""


def acquire_lock(directory: str) -> int:
    """Make the directory if it is missing, lock it, and leave this process's pid there for others to see.

    Returns the descriptor, which holds the lock until it is closed. Raises StoreError.
    """
    path = os.path.join(directory, LOCK_NAME)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # os.makedirs raises FileExistsError for a file in the place of a directory.
        problem = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise StoreError(
            f"the span store {directory} cannot be created: {problem}: {error.filename}; set "
            "agent.store.path to a directory in which this user may write"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreHeld(
            f"the span store {directory} is written by another process, pid {holder}; stop it, or set "
            "agent.store.path to another directory"
        ) from error
    # On a full disk the pid is missing, but the lock holds.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
