"""The directory of the rings, which applications and the agent share: private to one user."""

from __future__ import annotations

import os
import stat
import struct

from kaspan.interceptor.reporters.room import NO_ROOM, NoRoomError
from kaspan.wire.ring import READ_POS, SUFFIX, is_locked

MAX_UNREAD_ORPHANS = 64
"""How many rings of ended processes may be unread. At this number no new ring is made: no agent runs."""


class RingDirError(OSError):
    """The ring directory cannot be used. The message says which rule it breaks and what to do."""


def open_ring_dir(path: str) -> int:
    """Open the directory and return its descriptor. Makes it, with mode 0700, if it does not exist.

    Raises NoRoomError if the file system is full. Raises RingDirError if the directory cannot be made, is a
    symlink or another kind of file, belongs to another user, or if other users may write into it: they could
    replace a ring by a file of their own.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        said = f"interceptor.ring_dir {path} cannot be made: {error.strerror}"
        if error.errno in NO_ROOM:
            raise NoRoomError(said) from error
        raise RingDirError(f"{said}; set it to a place where this user may write") from error
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        what = "is a symlink" if os.path.islink(path) else (error.strerror or str(error)).lower()
        raise RingDirError(
            f"interceptor.ring_dir {path}: {what}; it must be a directory of this user's"
        ) from error
    status = os.fstat(descriptor)
    problem = None
    if status.st_uid != os.geteuid():
        problem = f"belongs to uid {status.st_uid}, and this process runs as uid {os.geteuid()}"
    elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = f"has mode {stat.S_IMODE(status.st_mode):04o}, so others may write there; make it 0700"
    if problem is not None:
        os.close(descriptor)
        raise RingDirError(f"interceptor.ring_dir {path} {problem}")
    return descriptor


def refuse_unread_orphans(directory: int, path: str) -> None:
    """Raise RingDirError if ended processes have left MAX_UNREAD_ORPHANS rings that no agent has read."""
    orphans = 0
    for name in os.listdir(directory):
        if name.endswith(SUFFIX) and _is_unread_orphan(directory, name):
            orphans += 1
            if orphans >= MAX_UNREAD_ORPHANS:
                raise RingDirError(
                    f"{path} holds {orphans} span rings of ended processes that no agent has read; start "
                    "`kaspan agent` with this ring directory, or set interceptor.enabled to false"
                )


def is_read(path: str) -> bool:
    """Whether an agent reads the rings of a directory: it holds the directory's lock. False if unknown."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return is_locked(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _is_unread_orphan(directory: int, name: str) -> bool:
    try:
        descriptor = os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory
        )
    except OSError:
        return False  # removed meanwhile, or not readable
    try:
        position = os.pread(descriptor, 8, READ_POS)
        if len(position) < 8 or struct.unpack("<Q", position)[0] != 0:
            return False
        return not is_locked(descriptor)
    except OSError:
        return False
    finally:
        os.close(descriptor)
