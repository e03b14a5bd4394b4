"""The ring's layout, version 1: headers that say what they are, frames that no damage makes raise."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.wire import ring
from support.ring_writer import RingWriter

DATA_BYTES = 64 * 1024
PAYLOADS = st.lists(st.binary(min_size=1, max_size=200), max_size=12)
POSITIONS = st.integers(0, 1 << 40).map(lambda number: number * 8)


def frame(payload: bytes) -> bytes:
    """Return a payload's frame by the words of the layout: length, CRC, payload, padding to 8 bytes."""
    raw = struct.pack("<II", len(payload), crc32(payload)) + payload
    return raw + b"\0" * (-len(raw) % 8)


def frames(payloads: list[bytes]) -> bytes:
    return b"".join(map(frame, payloads))


@given(st.binary(min_size=1, max_size=300))
def test_frame_takes_the_bytes_that_the_layout_says(payload: bytes) -> None:
    """A frame's place is its 8 bytes of header and its payload, rounded up to 8 bytes."""
    assert ring.frame_bytes(len(payload)) == len(frame(payload))


@given(PAYLOADS, POSITIONS)
def test_frames_are_read_as_they_were_written(payloads: list[bytes], start: int) -> None:
    """All of a piece's payloads come out in order, and the position is after the last of them."""
    data = frames(payloads)

    assert ring.read_frames(data, start, DATA_BYTES) == (payloads, start + len(data), None)


@given(PAYLOADS, st.integers(0, 1000))
def test_wrap_mark_sends_the_reader_to_the_start_of_the_data(payloads: list[bytes], rounds: int) -> None:
    """After a wrap mark the next position is the next multiple of the data area's size."""
    start = rounds * DATA_BYTES
    data = frames(payloads) + struct.pack("<II", ring.WRAP, 0) + b"leftovers of an earlier round"

    assert ring.read_frames(data, start, DATA_BYTES) == (payloads, start + DATA_BYTES, None)


@given(PAYLOADS, st.binary(min_size=1, max_size=200), st.data())
def test_damaged_frame_ends_the_reading_before_it(
    payloads: list[bytes], victim: bytes, choice: st.DataObject
) -> None:
    """One wrong bit in a payload is found: those before it are kept, and its position is named."""
    damaged = bytearray(frame(victim))
    at = choice.draw(st.integers(8, 7 + len(victim)))
    damaged[at] ^= 1 << choice.draw(st.integers(0, 7))
    before = frames(payloads)

    found, position, fault = ring.read_frames(before + bytes(damaged) + frame(b"after"), 0, DATA_BYTES)

    assert (found, position) == (payloads, len(before))
    assert fault is not None
    assert "CRC" in fault


@given(PAYLOADS, st.binary(min_size=1, max_size=200), st.data())
def test_frame_cut_off_is_not_read(payloads: list[bytes], victim: bytes, choice: st.DataObject) -> None:
    """A frame of which a part is missing is left for later, with the reason."""
    whole = struct.pack("<II", len(victim), crc32(victim)) + victim
    before = frames(payloads)
    data = before + whole[: choice.draw(st.integers(1, len(whole) - 1))]

    found, position, fault = ring.read_frames(data, 0, DATA_BYTES)

    assert (found, position) == (payloads, len(before))
    assert fault is not None


def test_memory_never_written_is_not_a_frame() -> None:
    """Zeros have a matching length and CRC, and are still no span."""
    assert ring.read_frames(b"\0" * 64, 128, DATA_BYTES) == ([], 128, "a frame of 0 bytes")


@given(st.binary(max_size=400), POSITIONS)
def test_any_bytes_never_raise(data: bytes, start: int) -> None:
    """With any bytes in the data area, reading ends at a position that is not before its start."""
    payloads, position, _ = ring.read_frames(data, start, DATA_BYTES)

    assert position >= start
    assert sum(ring.frame_bytes(len(payload)) for payload in payloads) <= len(data) + 7


SIZES = st.integers(ring.MIN_DATA_BYTES // 8, ring.MAX_DATA_BYTES // 8).map(lambda number: number * 8)


@given(SIZES, st.binary(max_size=ring.MAX_PROCESS_BYTES))
def test_new_header_says_size_and_process_and_nothing_else(data_bytes: int, process: bytes) -> None:
    """A new ring's header has its size, its process, and zero in every position and count."""
    raw = ring.pack_header(data_bytes, process)
    header = ring.Header(raw)

    assert len(raw) == ring.HEADER_BYTES
    assert (header.data_bytes, header.process_json) == (data_bytes, process)
    assert (header.write_pos, header.read_pos) == (0, 0)
    assert (header.dropped_spans, header.written_spans, header.suppressed_errors) == (0, 0, 0)


def test_header_has_each_number_at_its_place() -> None:
    """The five numbers stand at the offsets of the layout, 64 bits each, little endian."""
    raw = bytearray(ring.pack_header(DATA_BYTES, b"{}"))
    for offset in (16, 24, 32, 40, 48):
        raw[offset : offset + 8] = (offset << 32).to_bytes(8, "little")

    header = ring.Header(bytes(raw))

    assert (header.write_pos, header.read_pos) == (16 << 32, 24 << 32)
    assert header.dropped_spans == 32 << 32
    assert header.written_spans == 40 << 32
    assert header.suppressed_errors == 48 << 32


def test_header_has_the_counts_of_polled_records_at_its_end() -> None:
    """They came later, behind what an earlier writer fills in all but the last case."""
    raw = bytearray(ring.pack_header(DATA_BYTES, b"{}"))
    raw[4080:4096] = (7).to_bytes(8, "little") + (3).to_bytes(8, "little")

    header = ring.Header(bytes(raw))

    assert (header.polled_records, header.without_length) == (7, 3)
    assert header.process_json == b"{}"


def test_long_description_of_an_earlier_writer_is_no_count() -> None:
    """Where an earlier writer's text reaches the end of the header it is read as text."""
    raw = bytearray(ring.pack_header(DATA_BYTES, b"{}"))
    text = b"x" * 4036
    raw[56:60] = len(text).to_bytes(4, "little")
    raw[60:4096] = text

    header = ring.Header(bytes(raw))

    assert header.process_json == text
    assert (header.polled_records, header.without_length) == (0, 0)


def test_process_too_long_for_a_header_is_cut_off() -> None:
    """The description of a process never makes a header longer than its 4096 bytes."""
    raw = ring.pack_header(DATA_BYTES, b"x" * 10_000)

    assert len(raw) == ring.HEADER_BYTES
    assert ring.Header(raw).process_json == b"x" * ring.MAX_PROCESS_BYTES


def spoilt(offset: int, value: bytes) -> bytes:
    raw = bytearray(ring.pack_header(DATA_BYTES, b"{}"))
    raw[offset : offset + len(value)] = value
    return bytes(raw)


WRONG_HEADERS = {
    "empty": (b"", "0 bytes long"),
    "short": (ring.pack_header(DATA_BYTES, b"{}")[:-1], "4095 bytes long"),
    "another magic": (spoilt(0, b"GIF89a.."), "GIF89a"),
    "another version": (spoilt(7, b"\2"), r"KASPAN\x00\x02"),
    "another header size": (spoilt(8, struct.pack("<I", 512)), "512 bytes"),
    "an odd data size": (spoilt(12, struct.pack("<I", DATA_BYTES + 4)), f"{DATA_BYTES + 4} bytes"),
    "no data": (spoilt(12, struct.pack("<I", 0)), "0 bytes"),
    "too much data": (spoilt(12, struct.pack("<I", 0xFFFFFFF8)), "4294967288 bytes"),
}


@pytest.mark.parametrize(("raw", "said"), WRONG_HEADERS.values(), ids=WRONG_HEADERS.keys())
def test_wrong_header_is_refused_by_what_is_wrong(raw: bytes, said: str) -> None:
    """A file that is not a version 1 ring raises RingError with the wrong value."""
    with pytest.raises(ring.RingError) as refused:
        ring.Header(raw)

    assert said in str(refused.value)


@given(st.binary(max_size=64).map(lambda head: ring.MAGIC + head.ljust(ring.HEADER_BYTES, b"\0")))
def test_any_header_is_read_or_refused(raw: bytes) -> None:
    """No bytes raise anything else than RingError, and a process is never longer than its room."""
    try:
        header = ring.Header(raw)
    except ring.RingError:
        return
    assert len(header.process_json) <= ring.MAX_PROCESS_BYTES


def test_ring_is_locked_until_its_process_ends(tmp_path: Path) -> None:
    """The kernel releases the lock when the process ends, in any PID namespace."""
    writer = RingWriter(tmp_path)
    descriptor = os.open(writer.path, os.O_RDONLY)
    assert ring.is_locked(descriptor)
    writer.die()
    assert not ring.is_locked(descriptor)
    os.close(descriptor)


def test_those_that_ask_for_the_lock_at_once_get_the_same_answer(tmp_path: Path) -> None:
    """Asking for a moment does not make an ended process look alive to another that asks."""
    path = tmp_path / "1-a.ring"
    path.touch()
    other, descriptor = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_SH)  # as `is_locked` holds it
    assert not ring.is_locked(descriptor)
    os.close(other)
    os.close(descriptor)


def test_lock_that_cannot_be_asked_for_is_not_said_to_be_held(tmp_path: Path) -> None:
    """Only a lock that another holds is held; any other failure says nothing of it, and is raised."""
    descriptor = os.open(tmp_path, os.O_PATH)
    with pytest.raises(OSError, match="Bad file descriptor"):
        ring.is_locked(descriptor)
    os.close(descriptor)
