"""Whether the ring of a process that starts now fits into the ring directory, or where its spans go."""

from __future__ import annotations

import os

from kaspan.config.schema import Interceptor, default_fallback_dir, default_ring_dir
from kaspan.interceptor.reporters.build import local_agent
from kaspan.interceptor.reporters.ring_dir import is_read
from kaspan.interceptor.reporters.ring_file import sizes
from kaspan.interceptor.reporters.room import ADVICE, mebibytes, room, shortage
from kaspan.wire.ring import HEADER_BYTES


def room_for_rings(settings: Interceptor) -> tuple[list[str], list[str]]:
    """Report the room for rings, and what is wrong with it. Changes nothing."""
    wanted, fallback = sizes(settings.ring_bytes)[0], default_fallback_dir()
    data_bytes, message = _largest_ring(settings.ring_dir, settings.ring_bytes)
    if data_bytes == wanted:
        return [message], []
    if data_bytes:
        where = f"in smaller rings there, of {mebibytes(data_bytes)} MiB"
    elif settings.ring_dir != default_ring_dir() or (is_read(settings.ring_dir) and not is_read(fallback)):
        where = _by_http()
    else:
        other_bytes, other_message = _largest_ring(fallback, settings.ring_bytes, is_fallback=True)
        where = f"in rings in {fallback}" if other_bytes else f"{_by_http()}, since {other_message}"
    return [], [f"{message}: processes that start now keep their spans {where}. {ADVICE}"]


def _by_http() -> str:
    return f"in their own memory and report them to {local_agent()}"


def _largest_ring(path: str, max_bytes: int, is_fallback: bool = False) -> tuple[int, str]:
    """Return how many bytes of spans a new ring in a directory would hold, and the room there in words."""
    place = path if os.path.isdir(path) else os.path.dirname(path)
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        return 0, f"{place} cannot be opened ({error.strerror})"
    try:
        left, flags = room(descriptor), os.fstatvfs(descriptor).f_flag
    finally:
        os.close(descriptor)
    if flags & os.ST_RDONLY:
        return 0, f"the file system of {path} is read-only"
    if is_fallback and not left.keeps_room:
        return 0, f"the file system of {path} does not keep the room that was allocated"
    fits = [size for size in sizes(max_bytes) if HEADER_BYTES + size <= left.spare_bytes]
    best = fits[0] if fits else 0
    if best == sizes(max_bytes)[0]:
        return best, f"there is room for rings in {path}: {left}"
    return best, shortage(path, HEADER_BYTES + sizes(max_bytes)[0], left)
