"""The writing side of a ring: what was put is there at once and for good, what has no room is counted."""

from __future__ import annotations

import fcntl
import gc
import json
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kaspan.interceptor.reporters.ring import SpanRing
from kaspan.interceptor.reporters.room import NoRoomError
from kaspan.wire import ring as layout
from support.full_disk import fill, shared_memory
from support.ring_reader import RingReader, read_header, rings

DATA_BYTES = layout.MIN_DATA_BYTES


class Owned:
    """A ring as an application has it, and the agent's view of it."""

    def __init__(self, directory: Path, data_bytes: int = DATA_BYTES) -> None:
        self.ring = SpanRing(str(directory), data_bytes, {"service": "shop", "pid": os.getpid()})
        self.put = self.ring.put
        (self.path,) = rings(directory)
        self._reader = RingReader(directory)

    def take(self) -> list[bytes]:
        return self._reader.take_payloads(self.path)

    @property
    def header(self) -> layout.Header:
        return read_header(self.path)


@pytest.fixture
def owned(tmp_path: Path, implementation: Any) -> Iterator[Owned]:
    made = Owned(tmp_path / "rings")
    yield made
    made.ring.abandon()


def test_new_ring_is_a_whole_file_that_says_whose_it_is(owned: Owned) -> None:
    """A ring has its whole size allocated, a header with its process, and no other file beside it."""
    status = owned.path.stat()

    assert status.st_size == layout.HEADER_BYTES + DATA_BYTES
    assert status.st_blocks * 512 >= status.st_size
    assert status.st_mode & 0o777 == 0o600
    assert owned.path.parent.stat().st_mode & 0o777 == 0o700
    assert json.loads(owned.header.process_json) == {"service": "shop", "pid": os.getpid()}
    assert list(owned.path.parent.iterdir()) == [owned.path]


def test_span_that_was_put_can_be_read_at_once(owned: Owned) -> None:
    """Without a flush or a close the agent finds what was put, and the count of it."""
    owned.put(b'{"id":"1"}')
    owned.put(b'{"id":"2"}')

    assert owned.take() == [b'{"id":"1"}', b'{"id":"2"}']
    assert owned.header.written_spans == 2


def test_full_ring_drops_the_newest_spans_and_counts_them(owned: Owned) -> None:
    """What is in a full ring stays; each span for which there is no room is one in dropped_spans."""
    payloads = [b"%06d" % number + b"x" * 994 for number in range(100)]
    for payload in payloads:
        owned.put(payload)

    header, kept = owned.header, owned.take()

    assert kept == payloads[: len(kept)]
    assert len(kept) == DATA_BYTES // layout.frame_bytes(1000)
    assert header.written_spans == len(kept)
    assert header.dropped_spans == 100 - len(kept)


def test_ring_that_was_read_takes_spans_again(owned: Owned) -> None:
    """As soon as the agent has moved read_pos there is room, and nothing dropped comes back."""
    for _ in range(100):
        owned.put(b"a" * 1000)
    owned.take()
    owned.put(b"b" * 1000)

    assert owned.take() == [b"b" * 1000]


def test_span_too_large_for_the_ring_is_dropped_and_counted(owned: Owned) -> None:
    """A span that can never fit harms none of the others."""
    owned.put(b"a")
    owned.put(b"b" * DATA_BYTES)
    owned.put(b"c")

    assert owned.header.dropped_spans == 1
    assert owned.take() == [b"a", b"c"]


def test_span_larger_than_the_agent_takes_is_dropped_and_counted(tmp_path: Path, implementation: Any) -> None:
    """The agent calls a frame of more than MAX_SPAN_BYTES damage, so none is written, whatever the room."""
    owned = Owned(tmp_path / "rings", 4 * 1024 * 1024)
    owned.put(b"a" * layout.MAX_SPAN_BYTES)
    owned.put(b"b" * (layout.MAX_SPAN_BYTES + 1))
    owned.put(b"c")

    assert owned.header.dropped_spans == 1
    assert [len(payload) for payload in owned.take()] == [layout.MAX_SPAN_BYTES, 1]
    owned.ring.abandon()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data_bytes=st.sampled_from([8, 16, 24, 4096, DATA_BYTES]),
    steps=st.lists(
        st.tuples(
            st.integers(0, 100)
            | st.integers(DATA_BYTES - 40, 2 * DATA_BYTES)
            | st.just(layout.MAX_SPAN_BYTES),
            st.none() | st.integers(0, 3 * DATA_BYTES) | st.integers(0, 2**64 - 1),
        ),
        max_size=30,
    ),
)
def test_read_position_that_lies_leads_nowhere_outside_of_the_ring(
    implementation: Any, data_bytes: int, steps: list[tuple[int, int | None]]
) -> None:
    """Whatever read_pos says, and however large a span is for its ring, no byte after the ring changes."""
    guard = b"\xa5" * 2 * layout.MAX_SPAN_BYTES
    mapped = mmap.mmap(-1, layout.HEADER_BYTES + data_bytes + len(guard))
    mapped[layout.HEADER_BYTES + data_bytes :] = guard
    writer = implementation.Writer(mapped, data_bytes)
    for size, read_pos in steps:
        if read_pos is not None:
            mapped[layout.READ_POS : layout.READ_POS + 8] = layout.pack_position(read_pos)
        writer.put(b"x" * size)
    writer.release()

    assert mapped[layout.HEADER_BYTES + data_bytes :] == guard
    written, dropped = (
        int.from_bytes(mapped[at : at + 8], "little") for at in (layout.WRITTEN_SPANS, layout.DROPPED_SPANS)
    )
    assert written + dropped == len(steps)
    mapped.close()


@pytest.mark.parametrize("data_bytes", [0, 12, DATA_BYTES + 8, 2**64 - 8])
def test_writer_refuses_a_size_that_the_file_does_not_have(implementation: Any, data_bytes: int) -> None:
    """A ring's size is a multiple of 8 and ends where the mapped file does."""
    with mmap.mmap(-1, layout.HEADER_BYTES + DATA_BYTES) as mapped, pytest.raises(ValueError, match="fits"):
        implementation.Writer(mapped, data_bytes)


READ = 0
STEPS = st.lists(st.just(READ) | st.integers(1, 5000) | st.integers(30_000, 70_000), max_size=50)


@given(STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_spans_come_out_as_they_went_in_over_many_rounds(
    tmp_path_factory: pytest.TempPathFactory, implementation: Any, steps: list[int]
) -> None:
    """Whatever the sizes and whenever the agent reads, each span is read once, in order, or counted."""
    owned = Owned(tmp_path_factory.mktemp("rounds") / "rings")
    expected: list[bytes] = []
    position = read_position = dropped = 0
    for number, size in enumerate(steps):
        if size == READ:
            assert owned.take() == expected
            expected, read_position = [], position
            continue
        payload = bytes([number]) * size
        owned.put(payload)
        # A frame never wraps: where it does not fit before the end it starts at the beginning.
        rest = DATA_BYTES - position % DATA_BYTES
        end = position + (rest if layout.frame_bytes(size) > rest else 0) + layout.frame_bytes(size)
        if end - read_position > DATA_BYTES:
            dropped += 1
        else:
            expected.append(payload)
            position = end
        assert (owned.header.write_pos, owned.header.dropped_spans) == (position, dropped)
    assert owned.take() == expected
    owned.ring.abandon()


def test_many_threads_lose_no_span(tmp_path: Path, implementation: Any) -> None:
    """Spans put by many threads at once, while the agent reads, are each read once."""
    owned = Owned(tmp_path / "rings")
    threads_at_work, spans_each = 8, 2000
    finished = threading.Event()
    found: list[bytes] = []

    def read() -> None:
        while not finished.is_set():
            found.extend(owned.take())
        found.extend(owned.take())

    def write(number: int) -> None:
        for span in range(spans_each):
            owned.put(b"%d %d" % (number, span))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        reader = threading.Thread(target=read)
        writers = [threading.Thread(target=write, args=(number,)) for number in range(threads_at_work)]
        for thread in (reader, *writers):
            thread.start()
        for thread in writers:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        finished.set()
        reader.join()

    header = owned.header
    assert header.written_spans + header.dropped_spans == threads_at_work * spans_each
    assert len(found) == len(set(found)) == header.written_spans
    owned.ring.abandon()


class Cycle:
    """Garbage that only the collector finds, wherever it interrupts; its finalizer puts a span."""

    def __init__(self, put: Any) -> None:
        self.me = self
        self.put = put

    def __del__(self) -> None:
        self.put(b"finalized")


def test_finalizer_that_interrupts_a_put_may_put_as_well(owned: Owned) -> None:
    """A span put by a finalizer, in the middle of another put, neither hangs nor is lost."""
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            Cycle(owned.put)
            owned.put(b"ordinary")
    finally:
        gc.set_threshold(*threshold)
    gc.collect()

    found = owned.take()
    assert found.count(b"ordinary") == 300
    assert found.count(b"finalized") == 300


def test_signal_handler_that_interrupts_a_put_may_put_as_well(owned: Owned) -> None:
    """A span put by a signal handler, in the middle of another put of the main thread, is not lost."""
    handled = 0

    def handle(*_: Any) -> None:
        nonlocal handled
        handled += 1
        owned.put(b"handled")

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
    found: list[bytes] = []
    count = 0
    try:
        while handled < 50:
            owned.put(b"ordinary")
            count += 1
            if count % 500 == 0:
                found += owned.take()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    found += owned.take()

    assert owned.header.dropped_spans == 0
    assert found.count(b"ordinary") == count
    assert found.count(b"handled") == handled


def test_count_of_suppressed_failures_is_in_the_header(owned: Owned) -> None:
    """What the application never saw, the agent can report."""
    owned.ring.note_suppressed(7)

    assert owned.header.suppressed_errors == 7


OWNER = """
import os, signal, sys
from kaspan.interceptor.reporters.ring import SpanRing
ring = SpanRing(sys.argv[1], 65536, {"pid": os.getpid()})
for number in range(200):
    ring.put(b"%d" % number)
if sys.argv[2] == "wait":
    print("ready", flush=True)
    sys.stdin.read()
elif sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(7)
"""


def owner(directory: Path, end: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(directory), end], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def can_be_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


@pytest.mark.processes
@pytest.mark.parametrize(("end", "code"), [("kill", -signal.SIGKILL), ("exit", 7)])
def test_spans_outlive_a_process_that_ends_without_a_word(tmp_path: Path, end: str, code: int) -> None:
    """What was put before SIGKILL or os._exit is in the ring, all of it."""
    directory = tmp_path / "rings"
    with owner(directory, end) as process:
        assert process.wait(30) == code
    (path,) = rings(directory)

    assert RingReader(directory).take_payloads(path) == [b"%d" % number for number in range(200)]


@pytest.mark.processes
def test_owner_holds_the_lock_for_life(tmp_path: Path) -> None:
    """While the owner lives no other process can lock its ring; after its death any can."""
    directory = tmp_path / "rings"
    with owner(directory, "wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (path,) = rings(directory)
        assert not can_be_locked(path)
        process.kill()
        process.wait(30)

    assert can_be_locked(path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 600 kB."""
    with shared_memory(tmp_path / "small", "600k") as directory:
        yield directory


def test_ring_for_which_the_disk_has_no_room_is_not_made(small_disk: Path) -> None:
    """A ring that cannot be allocated whole is an error now, not a SIGBUS later, and leaves no file."""
    fill(small_disk / "other")
    with pytest.raises(NoRoomError, match=rf"{small_disk}/rings has no room.* 0\.0 of 0\.6 MiB are free"):
        SpanRing(str(small_disk / "rings"), 1024 * 1024, {})
    assert list((small_disk / "rings").iterdir()) == []


def test_ring_on_a_disk_that_fills_up_later_goes_on(small_disk: Path, implementation: Any) -> None:
    """A ring owns its room: a disk that somebody else fills up takes nothing from it."""
    owned = Owned(small_disk / "rings")
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(b"x" * 1_000_000)
    payloads = [b"%06d" % number + b"x" * 994 for number in range(60)]
    for payload in payloads:
        owned.put(payload)

    assert owned.take() == payloads
    owned.ring.abandon()
