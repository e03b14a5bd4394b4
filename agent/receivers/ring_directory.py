"""A ring directory, in which applications create rings. Owner and mode are checked before it is read."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator

from kaspan.wire.ring import SUFFIX, is_locked

_OWNER_IN_NAME = re.compile(r"kaspan-([0-9]+)").fullmatch
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe that somebody put there must not hang the agent.
_OPEN_RING = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
TEMPORARY_AGE_S = 60.0
"""An unfinished ring of this age, whose process is gone, will never be finished."""


class RingDirectoryError(Exception):
    """A directory may not be read; the message names the setting, the directory, the rule and what to do.

    `is_of_another_user`: another user owns the path, so it is unknown who has made the mistake.
    """

    def __init__(self, message: str, is_of_another_user: bool = False) -> None:
        super().__init__(message)
        self.is_of_another_user = is_of_another_user


class RingDirectory:
    """One entry of agent.ring_dirs, kept open while the path names the same directory.

    `open` may be called repeatedly: the directory may be created later, or removed and created again.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor: int | None = None
        self.owner = -1
        self._identity: tuple[int, int] | None = None

    def open(self) -> bool:
        """Open the directory; create it with mode 0700 if this user may. False if it does not exist.

        Raises RingDirectoryError if it breaks a rule, also if it did not break the rule before.
        """
        try:
            status = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            self.close()
            if not self._make():
                return False
            status = os.stat(self.path, follow_symlinks=False)
        except OSError as error:
            raise self._refusal(f"cannot be read: {error.strerror}") from error
        if self._identity == (status.st_dev, status.st_ino):
            self._check(status)
            return True
        self.close()
        self._check(status)
        try:
            descriptor = os.open(self.path, _OPEN_DIRECTORY)
        except OSError as error:
            raise self._refusal(f"cannot be opened: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            self._check(status)
            self._lock(descriptor)
        except RingDirectoryError:
            os.close(descriptor)
            raise
        self.descriptor, self.owner = descriptor, status.st_uid
        self._identity = (status.st_dev, status.st_ino)
        return True

    def _make(self) -> bool:
        named = _OWNER_IN_NAME(os.path.basename(self.path))
        if named and int(named[1]) != os.geteuid():
            # The application refuses a directory of another user: wait until that user's process creates it.
            return False
        try:
            os.mkdir(self.path, 0o700)
        except (FileNotFoundError, FileExistsError):
            return os.path.isdir(self.path)
        except OSError as error:
            raise self._refusal(f"cannot be created: {error.strerror}") from error
        return True

    def _check(self, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            what = "is a symlink, which others could point elsewhere; name the directory itself"
            raise self._refusal(what, status)
        if not stat.S_ISDIR(status.st_mode):
            raise self._refusal("is not a directory", status)
        me, owner = os.geteuid(), status.st_uid
        named = _OWNER_IN_NAME(os.path.basename(self.path))
        expected = int(named[1]) if named and me == 0 else me
        if owner != expected:
            raise self._refusal(
                f"belongs to uid {owner}, and must belong to uid {expected}; run the agent as the "
                "applications' user",
                status,
            )
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise self._refusal(
                f"has mode {stat.S_IMODE(status.st_mode):04o}, so others may write there; make it 0700",
                status,
            )

    def _lock(self, descriptor: int) -> None:
        """Lock the directory: two agents on it would each deliver half of every trace, or all of it twice."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal("is read by another agent; stop that one or set another directory") from error
        except OSError as error:
            raise self._refusal(f"cannot be locked: {error.strerror}") from error

    def _refusal(self, what: str, status: os.stat_result | None = None) -> RingDirectoryError:
        is_of_another_user = status is not None and status.st_uid != os.geteuid()
        return RingDirectoryError(f"agent.ring_dirs: {self.path} {what}", is_of_another_user)

    def changed_ns(self) -> int:
        """When a file was last created or removed here, in nanoseconds; the clock ticks every few ms."""
        if self.descriptor is None:
            return 0
        return os.fstat(self.descriptor).st_mtime_ns

    def ring_names(self) -> list[str]:
        """Return the names of all rings, in order; unfinished rings have other names."""
        if self.descriptor is None:
            return []
        return sorted(
            name for name in os.listdir(self.descriptor) if name.endswith(SUFFIX) and name[0] != "."
        )

    def open_ring(self, name: str) -> tuple[int, os.stat_result]:
        """Open a file for reading, and for writing its read position; the caller closes the descriptor.

        Raises OSError if it is gone or cannot be opened, RingDirectoryError if it is not a regular file of
        the directory's owner.
        """
        if self.descriptor is None:
            # os.open with dir_fd None would look in the current directory.
            raise FileNotFoundError(errno.ENOENT, "its directory does not exist", name)
        descriptor = os.open(name, _OPEN_RING, dir_fd=self.descriptor)
        status = os.fstat(descriptor)
        problem = None
        if not stat.S_ISREG(status.st_mode):
            problem = "is not a regular file"
        elif status.st_uid not in (self.owner, 0):
            problem = f"belongs to uid {status.st_uid}, and its directory to uid {self.owner}"
        if problem is not None:
            os.close(descriptor)
            raise RingDirectoryError(problem)
        return descriptor, status

    def remove(self, name: str, inode: int) -> None:
        """Remove a file, unless it is gone or another file has its name by now. Raises OSError."""
        if self.descriptor is None:
            return
        try:
            if os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_ino == inode:
                os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return

    def remove_unfinished(self) -> Iterator[str]:
        """Remove rings that a process left unfinished when it died; yields their names."""
        if self.descriptor is None:
            return
        for name in os.listdir(self.descriptor):
            if name.startswith(".") and name.endswith(".tmp"):
                inode = self._abandoned(name)
                if inode is not None:
                    self.remove(name, inode)
                    yield name

    def _abandoned(self, name: str) -> int | None:
        """Return the inode of an unfinished ring whose process is gone, otherwise None."""
        try:
            descriptor, status = self.open_ring(name)
        except (OSError, RingDirectoryError):
            return None
        try:
            is_old = time.time() - status.st_mtime > TEMPORARY_AGE_S
            return status.st_ino if is_old and not is_locked(descriptor) else None
        except OSError:
            return None  # its process may live
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the directory; `open` opens it again."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = self._identity = None
