"""A ring directory: where applications leave their rings, checked before anything in it is believed."""

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
"""A ring that is still being made after this long, by nobody, never will be whole."""


class RingDirectoryError(Exception):
    """A directory may not be read; the message names the setting, the directory, the rule and the way out.

    `is_of_others`: what stands there is another user's than the agent's, so whose mistake it is is not known.
    """

    def __init__(self, message: str, is_of_others: bool = False) -> None:
        super().__init__(message)
        self.is_of_others = is_of_others


class RingDirectory:
    """One entry of agent.ring_dirs, held open while it is the same directory.

    `open` may be called again and again: the directory may come later, or go and come back.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor: int | None = None
        self.owner = -1
        self._identity: tuple[int, int] | None = None

    def open(self) -> bool:
        """Open the directory, made with mode 0700 if it is ours to make; False while there is none.

        Raises RingDirectoryError if it breaks a rule, also one that it did not break before.
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
            # It has to be that user's, or the application will refuse it: wait until it makes it.
            return False
        try:
            os.mkdir(self.path, 0o700)
        except (FileNotFoundError, FileExistsError):
            return os.path.isdir(self.path)
        except OSError as error:
            raise self._refusal(f"cannot be made: {error.strerror}") from error
        return True

    def _check(self, status: os.stat_result) -> None:
        if stat.S_ISLNK(status.st_mode):
            what = "is a symlink, and a link can be turned elsewhere; name the directory itself"
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
        """Two agents on one directory would each deliver half of every trace, or all of it twice."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise self._refusal("is read by another agent; stop that one or set another directory") from error

    def _refusal(self, what: str, status: os.stat_result | None = None) -> RingDirectoryError:
        is_of_others = status is not None and status.st_uid != os.geteuid()
        return RingDirectoryError(f"agent.ring_dirs: {self.path} {what}", is_of_others)

    def changed_ns(self) -> int:
        """When a name in the directory last came or went, in nanoseconds; the clock ticks every few ms."""
        if self.descriptor is None:
            return 0
        return os.fstat(self.descriptor).st_mtime_ns

    def ring_names(self) -> list[str]:
        """Names of the rings there are, in order; what is being made has another name."""
        if self.descriptor is None:
            return []
        return sorted(
            name for name in os.listdir(self.descriptor) if name.endswith(SUFFIX) and name[0] != "."
        )

    def open_ring(self, name: str) -> tuple[int, os.stat_result]:
        """Open a file for reading and for its read position; the caller closes the descriptor.

        Raises OSError if it is gone or not to be had, RingDirectoryError if it is no regular file of the
        directory's owner.
        """
        if self.descriptor is None:
            # os.open would look in the current directory.
            raise FileNotFoundError(errno.ENOENT, "its directory is not there", name)
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
        """Remove a file; nothing happens if it is gone, or another one by now. Raises OSError."""
        if self.descriptor is None:
            return
        try:
            if os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_ino == inode:
                os.unlink(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return

    def remove_unfinished(self) -> Iterator[str]:
        """Remove rings that were being made by processes that died meanwhile; gives their names."""
        if self.descriptor is None:
            return
        for name in os.listdir(self.descriptor):
            if name.startswith(".") and name.endswith(".tmp"):
                inode = self._abandoned(name)
                if inode is not None:
                    self.remove(name, inode)
                    yield name

    def _abandoned(self, name: str) -> int | None:
        """The inode of a ring that nobody makes any more."""
        try:
            descriptor, status = self.open_ring(name)
        except (OSError, RingDirectoryError):
            return None
        try:
            is_old = time.time() - status.st_mtime > TEMPORARY_AGE_S
            return status.st_ino if is_old and not is_locked(descriptor) else None
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Let go of the directory; `open` takes it again."""
        if self.descriptor is not None:
            os.close(self.descriptor)
        self.descriptor = self._identity = None
