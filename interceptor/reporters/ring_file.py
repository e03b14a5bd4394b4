"""The file of one span ring: made in a ring directory, locked, and mapped into memory."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import sys

from kaspan.interceptor import fork
from kaspan.interceptor.failures import is_from_outside
from kaspan.interceptor.reporters.ring_dir import RingDirError, open_ring_dir, refuse_unread_orphans
from kaspan.interceptor.reporters.room import NO_ROOM, NoRoomError, room, shortage
from kaspan.wire import ring as layout


def sizes(max_bytes: int) -> list[int]:
    """Return the sizes (bytes for spans) that a ring may have, the best first: all, a half, a quarter."""
    wanted = max_bytes & ~7
    return [wanted, *(size for size in (wanted // 2 & ~7, wanted // 4 & ~7) if size >= layout.MIN_DATA_BYTES)]


class RingFile:
    """A new ring in `directory` with `max_bytes` for spans, or a half or a quarter of it if room is short.

    `mapped` is the mapping, `data_bytes` is its room for spans, and `shortage` says why that is not
    `max_bytes`. `process` describes the process. A fallback directory must be on a file system that keeps
    allocated room: on others, a write when the disk is full would end the process (SIGBUS). Raises
    RingDirError if a rule is broken, NoRoomError if there is no room.
    """

    def __init__(
        self, directory: str, max_bytes: int, process: dict[str, object], is_fallback: bool = False
    ) -> None:
        self.directory = directory
        self.shortage = ""
        descriptor = open_ring_dir(directory)
        try:
            refuse_unread_orphans(descriptor, directory)
            if is_fallback and not room(descriptor).keeps_room:
                raise NoRoomError(f"the file system of {directory} does not keep allocated room")
            self._make(descriptor, max_bytes, process)
        except (RingDirError, NoRoomError):
            raise
        except OSError as error:
            if is_from_outside(error):
                raise  # a signal handler's TimeoutError is one
            kind = NoRoomError if error.errno in NO_ROOM else RingDirError
            raise kind(f"no span ring can be made in {directory}: {error.strerror or error}") from error
        finally:
            os.close(descriptor)

    def _make(self, directory: int, max_bytes: int, process: dict[str, object]) -> None:
        """Make the file under a temporary name, and rename it when it is complete and locked."""
        name = f"{os.getpid()}-{os.urandom(8).hex()}"
        temporary, final = f".{name}.tmp", name + layout.SUFFIX
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
        try:
            # Locked while the process lives: the agent can lock it only after that. The mapping holds the
            # lock, not the descriptor: a process that becomes a daemon closes all its descriptors.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.data_bytes = self._allocate(directory, descriptor, max_bytes)
            os.pwrite(descriptor, layout.pack_header(self.data_bytes, json.dumps(process).encode()), 0)
            self._identity = _identity(descriptor)
            self.mapped, self._map_descriptor = _map(descriptor, layout.HEADER_BYTES + self.data_bytes)
            self._named, self._root = _named(temporary, directory), _named("/")
            os.rename(temporary, final, src_dir_fd=directory, dst_dir_fd=directory)
            self.path = f"{self.directory}/{final}"
        except BaseException:
            # It may have come just behind the rename. What `unlink` raised here would take its place.
            for path in (temporary, final):
                _remove(path, directory)
            raise
        finally:
            os.close(descriptor)

    def _allocate(self, directory: int, descriptor: int, max_bytes: int) -> int:
        """Allocate room for spans, at most `max_bytes`, and return how much it is."""
        for data_bytes in sizes(max_bytes):
            # The size announces the claim to other processes before any of them looks how much is left.
            os.ftruncate(descriptor, layout.HEADER_BYTES + data_bytes)
            left = room(directory)
            if left.spare_bytes >= 0:
                try:
                    # A write into a sparse file on a full tmpfs would end the application by SIGBUS.
                    os.posix_fallocate(descriptor, 0, layout.HEADER_BYTES + data_bytes)
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                else:
                    # Looked at again: processes that use other directories announce nothing here.
                    left = room(directory)
                    if left.spare_bytes >= 0:
                        return data_bytes
            if not self.shortage:
                self.shortage = shortage(self.directory, layout.HEADER_BYTES + data_bytes, left)
        raise NoRoomError(self.shortage)

    def is_gone(self) -> bool:
        """Whether the file is no longer at its path, so that an agent cannot find it."""
        try:
            return _named(self.path) != self._named
        except (FileNotFoundError, NotADirectoryError):
            return _named("/") == self._root  # after chroot the path means something else
        except OSError as error:
            if is_from_outside(error):
                raise
            return False

    def unread(self) -> list[bytes]:
        """Return the spans that no agent has read."""
        try:
            header = layout.Header(self.mapped[: layout.HEADER_BYTES])
        except layout.RingError:
            return []  # another process has overwritten it
        payloads: list[bytes] = []
        position, end = header.read_pos, header.write_pos
        while position < end:
            index = position % self.data_bytes
            size, at = min(end - position, self.data_bytes - index), layout.HEADER_BYTES + index
            found, after, _ = layout.read_frames(self.mapped[at : at + size], position, self.data_bytes)
            payloads += found
            if after == position:
                break
            position = after
        return payloads

    def abandon(self) -> None:
        """Unmap the file. Nothing may refer to `mapped` any more."""
        if self._map_descriptor is None or _identity(self._map_descriptor) in (self._identity, None):
            self.mapped.close()
        else:
            # The process has closed the mapping's descriptor, and its number is another file's now. To close
            # the mapping, or let Python free it, would close that file, so it is kept.
            fork.keep_until_exit(self.mapped)


def _map(descriptor: int, size: int) -> tuple[mmap.mmap, int | None]:
    """Map a file. Returns the mapping and the descriptor that Python keeps for it, None from 3.13 on."""
    if sys.version_info >= (3, 13):
        return mmap.mmap(descriptor, size, trackfd=False), None
    probe = os.dup(descriptor)
    os.close(probe)
    # The mapping's descriptor gets this number, unless another thread is faster, which `abandon` checks.
    return mmap.mmap(descriptor, size), probe


def _remove(path: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path, dir_fd=directory)


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return device and inode of a descriptor's file; None if it is closed."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _named(path: str, directory: int | None = None) -> tuple[int, int]:
    """Return device and inode of the file at a path, relative to `directory`."""
    status = os.stat(path, dir_fd=directory, follow_symlinks=False)
    return status.st_dev, status.st_ino
