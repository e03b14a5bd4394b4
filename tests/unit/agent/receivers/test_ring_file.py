"""kaspan.agent.receivers.ring_file: one ring, read piece by piece."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kaspan.agent.receivers.ring_file import PATIENCE_S, PIECE_BYTES, RingFile
from kaspan.wire import ring as layout
from support.ring_writer import DATA_BYTES, RingWriter, frame, span

LARGE = 10_000_000


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RingWriter]:
    writer = RingWriter(tmp_path, process=b'{"service":"orders"}')
    yield writer
    writer.die()


@pytest.fixture
def opened() -> Iterator[Callable[[RingWriter], RingFile]]:
    rings: list[RingFile] = []

    def open_ring(writer: RingWriter) -> RingFile:
        descriptor = os.open(writer.path, os.O_RDWR)
        rings.append(RingFile(writer.path.name, descriptor, os.fstat(descriptor).st_size))
        return rings[-1]

    yield open_ring
    for ring in rings:
        ring.close()


Opened = Callable[[RingWriter], RingFile]


def take_all(ring: RingFile, max_bytes: int = LARGE) -> list[bytes]:
    """Read until nothing more comes."""
    ring.poll()
    spans: list[bytes] = []
    while ring.unread_bytes:
        payloads, lost = ring.read(max_bytes, 0.0)
        assert lost is None
        assert payloads or not ring.is_suspect
        spans += payloads
    return spans


def test_ring_gives_spans_in_order_over_many_laps(writer: RingWriter, opened: Opened) -> None:
    """Every span comes once and in order, however often the ring begins again at its start."""
    ring = opened(writer)
    for lap in range(20):
        expected = [span(lap * 100 + number, number) for number in range(100)]
        assert all(writer.put(payload) for payload in expected)
        assert take_all(ring) == expected
        ring.publish()
    assert writer.write_pos > 5 * DATA_BYTES


def test_ring_is_read_in_pieces_no_larger_than_asked_for(writer: RingWriter, opened: Opened) -> None:
    """The bytes of a piece bound what comes of it."""
    for number in range(50):
        writer.put(span(number))
    ring = opened(writer)
    payloads, _ = ring.read(1024, 0.0)
    assert 0 < sum(map(len, payloads)) <= 1024


def test_span_larger_than_the_piece_comes_alone(writer: RingWriter, opened: Opened) -> None:
    """A span is never cut: one that is larger than a piece is a piece of its own."""
    for payload in (span(1, 5000), span(2)):
        writer.put(payload)
    ring = opened(writer)
    assert ring.read(1024, 0.0) == ([span(1, 5000)], None)
    assert ring.read(1024, 0.0) == ([span(2)], None)


def test_published_position_frees_the_writers_room(writer: RingWriter, opened: Opened) -> None:
    """The writer sees the position only when it is published."""
    writer.put(span(1))
    ring = opened(writer)
    take_all(ring)
    assert writer.read_pos == 0
    ring.publish()
    assert writer.read_pos == writer.write_pos


def test_ring_resumes_at_the_spools_position_when_that_is_ahead(writer: RingWriter, opened: Opened) -> None:
    """After a kill between the spool and the ring nothing is taken twice."""
    writer.put(span(1))
    taken = writer.write_pos
    writer.put(span(2))
    ring = opened(writer)
    ring.resume(taken)
    assert writer.read_pos == taken
    assert take_all(ring) == [span(2)]


def test_ring_keeps_its_own_position_when_the_spools_is_behind_or_beyond(
    writer: RingWriter, opened: Opened
) -> None:
    """A lost spool, or an earlier ring of the same name, has no say."""
    writer.put(span(1))
    writer.set_header(layout.READ_POS, writer.write_pos)
    writer.put(span(2))
    ring = opened(writer)
    ring.resume(0)
    ring.resume(writer.write_pos + 8)
    assert take_all(ring) == [span(2)]


def test_frame_that_becomes_visible_late_is_read(writer: RingWriter, opened: Opened) -> None:
    """A frame that looked wrong, because its bytes came after the position, is read when they are there."""
    writer.publish(len(frame(span(1))))
    ring = opened(writer)
    assert ring.read(LARGE, 0.0) == ([], None)
    assert ring.is_suspect
    writer.write_data(0, frame(span(1)))
    assert ring.read(LARGE, PATIENCE_S * 0.9) == ([span(1)], None)
    assert not ring.is_suspect


def test_damaged_frame_is_given_up_after_patience_with_what_was_lost(
    writer: RingWriter, opened: Opened
) -> None:
    """What stands before damage is kept; after a second the ring goes on at the writer's position."""
    writer.put(span(1))
    before = writer.write_pos
    writer.put(span(2), crc=1)
    writer.put(span(3))
    ring = opened(writer)
    assert ring.read(LARGE, 0.0) == ([span(1)], None)
    assert ring.read(LARGE, 0.0) == ([], None)
    payloads, lost = ring.read(LARGE, PATIENCE_S)
    assert payloads == []
    assert lost == (
        f"a frame of {len(span(2))} bytes whose CRC does not match at position {before}; "
        f"{writer.write_pos - before} bytes of spans are lost"
    )
    writer.put(span(4))
    assert take_all(ring) == [span(4)]


def test_wrap_mark_beyond_what_was_written_is_damage(writer: RingWriter, opened: Opened) -> None:
    """A mark may not lead past the writer's position."""
    writer.write_data(0, struct.pack("<II", layout.WRAP, 0))
    writer.publish(64)
    ring = opened(writer)
    ring.read(LARGE, 0.0)
    _, lost = ring.read(LARGE, PATIENCE_S)
    assert lost is not None
    assert lost.startswith("a mark that points beyond what was written")


def test_span_larger_than_the_format_allows_is_damage(tmp_path: Path, opened: Opened) -> None:
    """No more than a piece is ever in memory, so that a length cannot exhaust it."""
    writer = RingWriter(tmp_path, data_bytes=4 * PIECE_BYTES)
    writer.put(bytes(layout.MAX_SPAN_BYTES + 1))
    ring = opened(writer)
    ring.read(LARGE, 0.0)
    assert ring.read(LARGE, PATIENCE_S)[1] is not None
    writer.put(b"1" * layout.MAX_SPAN_BYTES)
    assert take_all(ring) == [b"1" * layout.MAX_SPAN_BYTES]
    writer.die()


@pytest.mark.parametrize(
    ("write_pos", "read_pos"),
    [(8, 16), (DATA_BYTES + 8, 0), (12, 0), (16, 4), (2**64 - 8, 2**64 - 16)],
)
def test_positions_that_cannot_be_true_are_refused(
    writer: RingWriter, opened: Opened, write_pos: int, read_pos: int
) -> None:
    """Neither at the start nor later are positions believed that no writer makes."""
    ring = opened(writer)
    writer.set_header(layout.WRITE_POS, write_pos)
    writer.set_header(layout.READ_POS, read_pos)
    with pytest.raises(layout.RingError, match="has impossible positions: written to"):
        opened(writer)
    if read_pos == 0:
        with pytest.raises(layout.RingError, match="has impossible positions: written to"):
            ring.poll()


def test_file_of_the_wrong_size_is_refused(writer: RingWriter, opened: Opened) -> None:
    """A file is exactly as long as its header says."""
    os.truncate(writer.path, layout.HEADER_BYTES + DATA_BYTES - 8)
    with pytest.raises(layout.RingError, match=r"is 69624 bytes long, and its header says 4096 \+ 65536"):
        opened(writer)


@pytest.mark.parametrize("left", [0, 20, layout.HEADER_BYTES, layout.HEADER_BYTES + 8])
def test_file_that_is_truncated_while_open_is_refused(writer: RingWriter, opened: Opened, left: int) -> None:
    """A truncated file only comes back short; it does not kill the reader."""
    writer.put(span(1))
    ring = opened(writer)
    os.truncate(writer.path, left)

    def look() -> None:
        ring.poll()
        ring.read(LARGE, 0.0)

    with pytest.raises(layout.RingError, match="was truncated"):
        look()


@pytest.mark.parametrize(
    ("process", "service"),
    [(b'{"service":"orders"}', "orders"), (b"[" * 4000, "?"), (b"\xff", "?"), (b"[]", "?"), (b"{}", "?")],
)
def test_ring_says_whose_it_is(tmp_path: Path, opened: Opened, process: bytes, service: str) -> None:
    """The service in the header names the ring in messages; a header without one does no harm."""
    writer = RingWriter(tmp_path, process=process)
    assert opened(writer).service == service
    writer.die()
