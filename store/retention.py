"""Deletes the oldest partitions: of a store that is too large, and those in which all is too old."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from kaspan.store.partitions import Files, delete_files, list_files

CLOCK_JUMP_S = 60.0
"""By how much the clock may be set before the times of partitions are moved with it."""

_log = logging.getLogger("kaspan.store")


def boot_clock_s() -> float:
    """Return the seconds since the machine started, those that it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class Kept:
    """What is in the directory after deletion: `numbers` are the partitions that can be read."""

    bytes: int
    numbers: list[int]
    damaged: int
    deleted: list[int]


class Retention:
    """Keeps a directory within its limits.

    A partition is as old as its file's time of modification says, but not younger than a newer one: after
    the clock was wrong, its time may lie in the future. When the clock is set while this process runs, those
    times move with it, so that no partition ages by that.
    """

    def __init__(
        self,
        directory: str,
        max_bytes: int,
        max_age_s: float,
        clock_s: Callable[[], float],
        boot_clock_s: Callable[[], float] = boot_clock_s,
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._clock_s = clock_s
        self._boot_clock_s = boot_clock_s
        self._boot_s = clock_s() - boot_clock_s()

    def adjust(self, max_bytes: int, max_age_s: float) -> None:
        """Use other limits from the next check on. Any thread may call it."""
        self._max_bytes, self._max_age_s = max_bytes, max_age_s

    def check(self, newest: int) -> Kept:
        """Delete what is beyond a limit, but not the partition `newest` or what comes after it."""
        self._follow_clock()
        found = list_files(self._directory)
        for number in [number for number, files in found.items() if files.is_left_over]:
            delete_files(self._directory, found.pop(number))
        total = sum(files.bytes for files in found.values())
        deleted = []
        for number, is_old in self._ages(found):
            if number >= newest or not (is_old or total > self._max_bytes):
                break
            files = found.pop(number)
            delete_files(self._directory, files)
            deleted.append(number)
            total -= files.bytes
            _log.info("partition %d of the span store was deleted: %s", number, "age" if is_old else "size")
        damaged = [number for number, files in found.items() if files.is_damaged]
        return Kept(total, [number for number in found if number not in damaged], len(damaged), deleted)

    def _ages(self, found: dict[int, Files]) -> list[tuple[int, bool]]:
        """Return for each number, the oldest first, whether it is too old."""
        latest_s = self._clock_s()
        oldest_s = latest_s - self._max_age_s
        ages = []
        for number, files in reversed(found.items()):
            latest_s = min(latest_s, files.modified_s)
            ages.append((number, latest_s < oldest_s))
        return ages[::-1]

    def _follow_clock(self) -> None:
        boot_s = self._clock_s() - self._boot_clock_s()
        jump_s = boot_s - self._boot_s
        if abs(jump_s) < CLOCK_JUMP_S:
            return
        self._boot_s = boot_s
        _log.warning("the clock was set by %+.0f s: the spans in the store get no older by that", jump_s)
        for files in list_files(self._directory).values():
            for name in files.names:
                path = os.path.join(self._directory, name)
                with suppress(OSError):
                    status = os.stat(path)
                    os.utime(path, (status.st_atime, status.st_mtime + jump_s))
