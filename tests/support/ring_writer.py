"""A span ring's writer for tests: written from the layout alone, and able to do what no right writer does."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from zlib import crc32

from kaspan.wire import ring as layout

DATA_BYTES = 64 * 1024


def frame(payload: bytes, crc: int | None = None) -> bytes:
    """Return a payload as the data area holds it; `crc` replaces the right checksum."""
    head = struct.pack("<II", len(payload), crc32(payload) if crc is None else crc)
    return (head + payload).ljust(layout.frame_bytes(len(payload)), b"\0")


def span(number: int, extra_bytes: int = 0) -> bytes:
    """Return a Zipkin v2 span with this number as its id, and `extra_bytes` more in a tag."""
    padding = b"x" * extra_bytes
    return (
        b'{"traceId":"%016x","id":"%016x","name":"send orders","timestamp":1732459200000000,"duration":10,'
        b'"localEndpoint":{"serviceName":"orders"},"tags":{"padding":"%b"}}' % (number, number, padding)
    )


class RingWriter:
    """A ring `name` in `directory`; the owner's lock is held until `die`."""

    def __init__(
        self, directory: Path, name: str = "1-a.ring", data_bytes: int = DATA_BYTES, process: bytes = b"{}"
    ) -> None:
        self.path = directory / name
        self.data_bytes = data_bytes
        self.write_pos = 0
        temporary = directory / f".{name}.tmp"
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.posix_fallocate(self._descriptor, 0, layout.HEADER_BYTES + data_bytes)
        os.pwrite(self._descriptor, layout.pack_header(data_bytes, process), 0)
        os.rename(temporary, self.path)

    def put(self, payload: bytes, crc: int | None = None) -> bool:
        """Append a span; False if there was no room, which is counted as the interceptor counts it."""
        raw = frame(payload, crc)
        index = self.write_pos % self.data_bytes
        skip = self.data_bytes - index if len(raw) > self.data_bytes - index else 0
        if self.write_pos + skip + len(raw) - self.read_pos > self.data_bytes:
            self.set_header(layout.DROPPED_SPANS, self.header(layout.DROPPED_SPANS) + 1)
            return False
        if skip:
            self.write_data(self.write_pos, struct.pack("<II", layout.WRAP, 0))
        self.write_data(self.write_pos + skip, raw)
        self.publish(self.write_pos + skip + len(raw))
        return True

    def write_data(self, position: int, raw: bytes) -> None:
        """Write bytes at a position without a word about them in the header."""
        os.pwrite(self._descriptor, raw, layout.HEADER_BYTES + position % self.data_bytes)

    def publish(self, write_pos: int) -> None:
        """Move the header's write position."""
        self.write_pos = write_pos
        self.set_header(layout.WRITE_POS, write_pos)

    def header(self, offset: int) -> int:
        """Return one of the header's 64-bit numbers."""
        return int.from_bytes(os.pread(self._descriptor, 8, offset), "little")

    def set_header(self, offset: int, value: int) -> None:
        """Write one of the header's 64-bit numbers."""
        os.pwrite(self._descriptor, value.to_bytes(8, "little"), offset)

    @property
    def read_pos(self) -> int:
        """How far the agent says it has taken the spans."""
        return self.header(layout.READ_POS)

    def die(self) -> None:
        """Let go of the file and its lock, as the kernel does for a process that ends."""
        os.close(self._descriptor)
