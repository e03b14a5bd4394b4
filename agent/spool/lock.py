"""Locks a spool for one agent: of two on one path, each would delete what the other has not delivered."""

from __future__ import annotations

import contextlib
import fcntl
import os


class SpoolError(Exception):
    """The spool cannot be used; the message names the file, the reason, and what to do."""


class SpoolInUseError(SpoolError):
    """Another process uses the spool."""


def acquire_lock(path: str) -> int:
    """Lock the file next to the spool, and write this process's pid into it for the next agent's message.

    Returns the descriptor, which holds the lock until it is closed. Raises SpoolError.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # os.makedirs raises FileExistsError for a file in the place of a directory.
        problem = "Not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise SpoolError(
            f"agent.spool.path: {path} cannot be created: {problem}: {error.filename}; set it "
            "to a file in a directory where this user may write"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise SpoolInUseError(
            f"agent.spool.path: {path} is in use by another agent, pid {holder}; stop it or set another path"
        ) from error
    except OSError as error:
        os.close(descriptor)
        raise SpoolError(
            f"agent.spool.path: {path} cannot be locked: {error.strerror}; set it to a file system with locks"
        ) from error
    # On a full disk the pid is missing, but the lock holds, and delivery makes room.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor
