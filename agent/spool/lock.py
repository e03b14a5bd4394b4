"""Hold a spool for one agent: two on one path would each delete what the other has not delivered."""

from __future__ import annotations

import contextlib
import fcntl
import os


class SpoolError(Exception):
    """The spool cannot be opened; the message says which file, why, and what to do."""


class SpoolInUseError(SpoolError):
    """Another process holds the spool."""


def acquire_lock(path: str) -> int:
    """Take the lock beside the spool, with this process's pid in it for whoever comes second."""
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # makedirs says so of a file where a directory should be.
        problem = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise SpoolError(
            f"agent.spool.path: {path} cannot be made: {problem}: {error.filename}; set it "
            "to a file in a directory where this user may write"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise SpoolInUseError(
            f"agent.spool.path: {path} is in use by another agent, pid {holder}; stop it or set another path"
        ) from error
    # On a full disk nobody is told the pid; the lock holds all the same, and delivering makes room.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
