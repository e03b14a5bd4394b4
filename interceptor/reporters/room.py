"""How much room span rings may take: half of shared memory stays free for the application, a tenth of a disk.

What an application maps in shared memory that is full ends it by SIGBUS, so rings leave it room.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from kaspan.interceptor.failures import is_from_outside, log

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""What the system says of a file system in which nothing more can be made."""
CLAIM_S = 60.0
"""A ring that is still being made after this long, by nobody, never will be whole."""
_IN_MEMORY = (b"tmpfs", b"ramfs")
# Where room that was allocated stays so: others write each page to a new place, which a full disk has not.
_KEEPS_ROOM = (*_IN_MEMORY, b"ext2", b"ext3", b"ext4", b"xfs", b"f2fs", b"overlay")


class NoRoomError(OSError):
    """There is no room for a span ring; the message says where, and how much there is."""


class Room:
    """A file system as rings see it, in bytes: its size, what is free, and what of that rings leave alone.

    `keeps_room` says whether room that was allocated in it is there later as well.
    """

    # No NamedTuple: to make one takes longer than the rest of this module.
    def __init__(self, total_bytes: int, free_bytes: int, claimed_bytes: int, kind: bytes | None) -> None:
        self.total_bytes = total_bytes
        self.free_bytes = free_bytes
        self.claimed_bytes = claimed_bytes
        self.is_in_memory = kind is None or kind in _IN_MEMORY
        self.keeps_room = kind in _KEEPS_ROOM

    @property
    def spare_bytes(self) -> int:
        """How much rings may still take; less than 0: they have taken too much."""
        if not self.total_bytes:
            return sys.maxsize  # a tmpfs without a limit
        kept_bytes = self.total_bytes // (2 if self.is_in_memory else 10)
        return self.free_bytes - kept_bytes - self.claimed_bytes

    def __str__(self) -> str:
        share = "half stays" if self.is_in_memory else "a tenth stays"
        return f"{mebibytes(self.free_bytes)} of {mebibytes(self.total_bytes)} MiB are free, and {share} free"


def room(directory: int) -> Room:
    """Look at the file system of a ring directory, an open descriptor.

    What a ring that is being made in it has announced, by its size, and not taken yet is claimed: of two
    processes that announce and then look, at least one sees the other.
    """
    status, kind = os.fstatvfs(directory), _file_system(directory)
    if kind == b"overlay" and not status.f_files:
        kind = b"btrfs"  # what is below an overlay does not say its name, but only btrfs counts no inodes
    return Room(
        status.f_blocks * status.f_frsize,
        status.f_bavail * status.f_frsize,
        _claimed_bytes(directory),
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
                continue  # whole and renamed meanwhile, or given up
            if now_s - status.st_mtime < CLAIM_S:
                claimed += max(0, status.st_size - status.st_blocks * 512)
    return claimed


def _file_system(directory: int) -> bytes | None:
    """Say of which kind a directory's file system is; None if that cannot be known."""
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
    # The first span may come when Python is ending and has no open() any more.
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
    """Say, when a process has its ring, that shared memory is short, where its spans go and what helps."""
    log.warning(
        "kaspan: %s; this process keeps its spans %s. %s; `kaspan doctor` says more", why, where, ADVICE
    )


def shortage(path: str, ring_bytes: int, left: Room) -> str:
    """Say that a ring of this size, all of it, has no room in a directory."""
    return f"{path} has no room for a span ring of {mebibytes(ring_bytes)} MiB: {left}"


def mebibytes(count: int) -> str:
    """Write a number of bytes in MiB, with one digit after the point where it is small."""
    return f"{count / 1024**2:.0f}" if count >= 10 * 1024**2 else f"{count / 1024**2:.1f}"
