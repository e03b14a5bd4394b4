"""The partitions in a store's directory."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SUFFIX = ".spans"
DAMAGED = ".damaged"
_SIDE_FILES = ("-wal", "-shm")

_number_of = re.compile(r"(\d{10})\.").match
_log = logging.getLogger("kaspan.store")


@dataclass(frozen=True, order=True)
class Partition:
    """A partition of the store in `directory`; of two, the one with the higher number is newer."""

    number: int
    directory: str

    @property
    def path(self) -> str:
        """Where its SQLite file is."""
        return os.path.join(self.directory, f"{self.number:010}{SUFFIX}")


@dataclass
class Files:
    """The files that belong to one number: a partition and what is derived from it, or a damaged one."""

    names: list[str] = field(default_factory=list)
    bytes: int = 0
    modified_s: float = 0.0

    @property
    def is_damaged(self) -> bool:
        """Whether the partition was moved aside."""
        return any(name.endswith(SUFFIX + DAMAGED) for name in self.names)

    @property
    def is_left_over(self) -> bool:
        """Whether the partition itself was deleted, and what belongs to it was not, or was made again."""
        return not any(name.endswith((SUFFIX, SUFFIX + DAMAGED)) for name in self.names)


def list_partitions(directory: str) -> list[Partition]:
    """Return the partitions that can be read, the oldest first; none if there is no such directory."""
    numbers = [int(name[:10]) for name in _names(directory) if re.fullmatch(r"\d{10}\.spans", name)]
    return [Partition(number, directory) for number in sorted(numbers)]


def list_files(directory: str) -> dict[int, Files]:
    """Return the files of all partitions by number, the oldest first, damaged ones too."""
    found: dict[int, Files] = {}
    for name in sorted(_names(directory)):
        match = _number_of(name)
        if match is None:
            continue
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(os.path.join(directory, name))
            files = found.setdefault(int(match[1]), Files())
            files.names.append(name)
            files.bytes += status.st_size
            if not files.modified_s or name.endswith((SUFFIX, SUFFIX + DAMAGED)):
                files.modified_s = status.st_mtime
    return found


def _names(directory: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            yield from [entry.name for entry in entries]
    except FileNotFoundError:
        return


def delete_files(directory: str, files: Files) -> None:
    """Delete the files of a partition. Readers that have it open may go on."""
    # The SQLite file last: what is left after a kill still belongs to a partition.
    for name in sorted(files.names, key=lambda name: name.endswith(SUFFIX)):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(directory, name))


def set_aside(partition: Partition, reason: object) -> str:
    """Rename a damaged partition, so that nothing reads it any more, and log that; return its new path.

    Only the process that writes the store should call it.
    """
    aside = partition.path + DAMAGED
    for suffix in ("", *_SIDE_FILES):
        with contextlib.suppress(FileNotFoundError):
            os.rename(partition.path + suffix, aside + suffix)
    _log.error(
        "partition %s of the span store is damaged (%s): moved to %s; its spans are not found any more",
        *(partition.path, str(reason), aside),
        extra={"partition": partition.path, "moved_to": aside},
    )
    return aside
