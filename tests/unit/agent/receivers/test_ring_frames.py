"""kaspan.wire.ring.read_frames: what the agent makes of the bytes in a ring."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from kaspan.wire.ring import WRAP, read_frames
from support.ring_writer import DATA_BYTES, frame

payloads = st.lists(st.binary(min_size=1, max_size=200), max_size=20)
positions = st.integers(min_value=0, max_value=2**40).map(lambda number: number * 8)


@given(payloads, positions)
def test_read_frames_gives_every_payload_and_the_position_after(expected: list[bytes], start: int) -> None:
    """All whole frames are read, and the position stands behind the last."""
    data = b"".join(map(frame, expected))
    assert read_frames(data, start, DATA_BYTES) == (expected, start + len(data), None)


@given(payloads, st.binary(min_size=1, max_size=100), positions)
def test_read_frames_keeps_what_stands_before_damage(kept: list[bytes], damaged: bytes, start: int) -> None:
    """A frame whose CRC does not match hides nothing that stands before it."""
    whole = b"".join(map(frame, kept))
    read, position, fault = read_frames(whole + frame(damaged, crc=0xBAD), start, DATA_BYTES)
    assert (read, position) == (kept, start + len(whole))
    assert fault == f"a frame of {len(damaged)} bytes whose CRC does not match"


@given(payloads, st.binary(max_size=300), positions)
def test_read_frames_never_raises(before: list[bytes], garbage: bytes, start: int) -> None:
    """Whatever the bytes are, the frames before them are read and the position only grows."""
    read, position, _ = read_frames(b"".join(map(frame, before)) + garbage, start, DATA_BYTES)
    assert read[: len(before)] == before
    assert position >= start


def test_read_frames_waits_at_memory_that_was_not_written_yet() -> None:
    """Zeros are not read as a frame, though a length of 0 with a CRC of 0 would match."""
    read, position, fault = read_frames(frame(b"{}") + bytes(64), 0, DATA_BYTES)
    assert (read, position) == ([b"{}"], 16)
    assert fault == "a frame of 0 bytes"


def test_read_frames_says_that_a_frame_is_longer_than_what_is_there() -> None:
    """A length beyond the data is named with what is left."""
    assert read_frames(struct.pack("<II", 5000, 0) + bytes(16), 0, DATA_BYTES)[2] == (
        "a frame of 5000 bytes where 24 are left"
    )


def test_read_frames_follows_a_wrap_mark_to_the_start_of_the_area() -> None:
    """A mark leads to the first position of the next lap."""
    data = frame(b"{}") + struct.pack("<II", WRAP, 0) + b"leftovers of an earlier lap....."
    assert read_frames(data, DATA_BYTES * 3 - 1024, DATA_BYTES) == ([b"{}"], DATA_BYTES * 3, None)
