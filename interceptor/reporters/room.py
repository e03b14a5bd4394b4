"""How much room span rings may use: at most half of shared memory, and all but a tenth of a disk.

An application that writes into shared memory when it is full ends by SIGBUS, so rings leave it room.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from kaspan.interceptor.failures import is_from_outside, log

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Error numbers of a file system that is full or read-only."""
CLAIM_S = 60.0
"""A ring that is not complete after this long never will be: its process has ended."""
_IN_MEMORY = (b"tmpfs", b"ramfs")
# File systems that keep allocated room. Others write each page to a new place: a full disk has none.
_KEEPS_ROOM = (*_IN_MEMORY, b"ext2", b"ext3", b"ext4", b"xfs", b"f2fs", b"overlay")


class NoRoomError(OSError):
    """A span ring finds no room. The message says where, and how much is left."""


class Room:
    """The room of a file system in bytes: its size, how much is free, and how much rings must leave free.

    `keeps_room` says whether it keeps allocated room.
    """

    # Not a NamedTuple: that takes longer to define than the rest of this module.
    def __init__(self, total_bytes: int, free_bytes: int, claimed_bytes: int, kind: bytes | None) -> None:
        self.total_bytes = total_bytes
        self.free_bytes = free_bytes
        self.claimed_bytes = claimed_bytes
        self.is_in_memory = kind is None or kind in _IN_MEMORY
        self.keeps_room = kind in _KEEPS_ROOM

    @property
    def spare_bytes(self) -> int:
        """How many bytes rings may still use; below 0 if they use too much."""
        if not self.total_bytes:
            return sys.maxsize  # a tmpfs without a limit
        kept_bytes = self.total_bytes // (2 if self.is_in_memory else 10)
        return self.free_bytes - kept_bytes - self.claimed_bytes

    def __str__(self) -> str:
        share = "half stays" if self.is_in_memory else "a tenth stays"
        return f"{mebibytes(self.free_bytes)} of {mebibytes(self.total_bytes)} MiB are free, and {share} free"


def room(directory: int) -> Room:
    """Return the room in the file system of a ring directory, an open descriptor.

    A ring in the making announces its size before it allocates; what it has not allocated yet counts as
    claimed. Each process announces and then looks, so of two at least one sees the other.
    """
    # Claims first: what is allocated between the two looks then counts twice, and not never.
    claimed_bytes = _claimed_bytes(directory)
    status, kind = os.fstatvfs(directory), _file_system(directory)
    if kind == b"overlay" and not status.f_files:
        kind = b"btrfs"  # an overlay hides the file system below it, but only btrfs counts no inodes
    return Room(
        status.f_blocks * status.f_frsize,
        status.f_bavail * status.f_frsize,
        claimed_bytes,
        kind,
    )


def _claimed_bytes(directory: int) -> int:
    claimed, now_s = 0, time.time()
    with os.scandir(directory) as entries:
        for entry in entries:
            if not entry.name.endswith(".tmp"):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue  # renamed meanwhile, or removed
            if now_s - status.st_mtime < CLAIM_S:
                claimed += max(0, status.st_size - status.st_blocks * 512)
    return claimed


def _file_system(directory: int) -> bytes | None:
    """Return the type of a directory's file system, such as `ext4`; None if it is not known."""
    device = os.fstat(directory).st_dev
    wanted = b"%d:%d" % (os.major(device), os.minor(device))
    try:
        for line in _read("/proc/self/mountinfo").splitlines():
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index(b"-") + 1]
    except (OSError, ValueError, IndexError) as error:
        if is_from_outside(error):
            raise  # a signal handler's TimeoutError is an OSError
        return None
    return b"?"


def _read(path: str) -> bytes:
    # The first span may come when Python ends and open() is gone.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        while piece := os.read(descriptor, 1 << 16):
            text += piece
        return text
    finally:
        os.close(descriptor)


ADVICE = (
    "Give it more shared memory (docker run --shm-size, in Kubernetes an emptyDir of medium Memory), or set "
    "interceptor.ring_bytes lower or interceptor.ring_dir elsewhere"
)


def warn_of_shortage(why: str, where: str) -> None:
    """Warn that shared memory is short, and say where the process's spans go and what helps."""
    log.warning(
        "kaspan: %s; this process keeps its spans %s. %s; `kaspan doctor` says more", why, where, ADVICE
    )


def shortage(path: str, ring_bytes: int, left: Room) -> str:
    """Return the message that a directory has no room for a ring of this size."""
    return f"{path} has no room for a span ring of {mebibytes(ring_bytes)} MiB: {left}"


def mebibytes(count: int) -> str:
    """Format a number of bytes in MiB, with one decimal below 10."""
    return f"{count / 1024**2:.0f}" if count >= 10 * 1024**2 else f"{count / 1024**2:.1f}"
