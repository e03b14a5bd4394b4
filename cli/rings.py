"""The span rings of a directory, as `kaspan doctor` sees them: it reads their headers and changes nothing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from kaspan.config.errors import escaped
from kaspan.wire.ring import HEADER_BYTES, SUFFIX, Header, RingError, is_locked


@dataclass(frozen=True)
class Ring:
    """One ring: its process, whether that is alive, and its counters. `process` is untrusted text."""

    name: str
    is_owned: bool
    has_been_read: bool
    data_bytes: int
    unread_bytes: int
    written_spans: int
    dropped_spans: int
    suppressed_errors: int
    polled_records: int
    without_length: int
    process: dict[str, Any]

    def field(self, key: str) -> str:
        """Return one field of the process's description, fit for one line; ? if it is missing."""
        text = str(self.process.get(key, "?"))[:60]
        return text if text.isprintable() else ascii(text)


@dataclass(frozen=True)
class Survey:
    """The rings in a directory, and for each file that is not a ring, the reason."""

    rings: tuple[Ring, ...]
    unreadable: tuple[str, ...]


def survey(directory: str) -> Survey:
    """Read the header of every ring in a directory. Does not block, and changes nothing.

    Raises OSError if the directory cannot be listed.
    """
    rings, unreadable = [], []
    for name in sorted(os.listdir(directory)):
        if not name.endswith(SUFFIX) or name.startswith("."):
            continue
        try:
            rings.append(_read(directory, name))
        except FileNotFoundError:
            continue  # the agent has removed it meanwhile
        except (OSError, RingError) as error:
            unreadable.append(
                f"{escaped(f'{directory}/{name}')}: {getattr(error, 'strerror', None) or error}"
            )
    return Survey(tuple(rings), tuple(unreadable))


def _read(directory: str, name: str) -> Ring:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(f"{directory}/{name}", flags)
    try:
        header = Header(os.pread(descriptor, HEADER_BYTES, 0))
        is_owned = is_locked(descriptor)
    finally:
        os.close(descriptor)
    return Ring(
        name,
        is_owned,
        header.read_pos > 0,
        header.data_bytes,
        header.write_pos - header.read_pos,
        header.written_spans,
        header.dropped_spans,
        header.suppressed_errors,
        header.polled_records,
        header.without_length,
        _process(header.process_json),
    )


def _process(process_json: bytes) -> dict[str, Any]:
    try:
        process = json.loads(process_json)
    except (ValueError, RecursionError):
        return {}
    return process if isinstance(process, dict) else {}
