"""Rings leave the application its shared memory: they shrink, go to a disk, or are not made."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kaspan.config.schema import Interceptor, default_fallback_dir, default_ring_dir, default_ring_dirs
from kaspan.interceptor.reporters import build, ring_file, room
from kaspan.interceptor.reporters.build import Reporters
from kaspan.interceptor.reporters.ring import SpanRing
from kaspan.interceptor.reporters.room import CLAIM_S, NoRoomError
from kaspan.wire import ring as layout
from support.full_disk import free_bytes, shared_memory
from support.ring_reader import RingReader, read_header, rings
from support.zipkin_stub import ZipkinStub

MIB = 1 << 20


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """Give what a container has for shared memory when nothing is said: 64 MiB."""
    with shared_memory(tmp_path / "shm", "64m") as directory:
        yield directory


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Name a directory for rings on another file system."""
    with shared_memory(tmp_path / "disk", "64m") as directory:
        yield directory / "rings"


class Processes:
    """Rings as many processes have them; `sizes` in MiB."""

    def __init__(self) -> None:
        self.sizes: list[float] = []
        self._rings: list[SpanRing] = []

    def add(self, directory: Path, fallback: Path | None = None) -> SpanRing:
        ring = SpanRing(str(directory), 4 * MIB, {}, None if fallback is None else str(fallback))
        self._rings.append(ring)
        self.sizes.append(ring._file.data_bytes / MIB)
        return ring

    def end(self) -> None:
        for ring in self._rings:
            ring.abandon()


@pytest.fixture
def processes() -> Iterator[Processes]:
    made = Processes()
    yield made
    made.end()


def test_half_of_shared_memory_stays_free(memory: Path, processes: Processes) -> None:
    """Rings become smaller where room is short, and are not made where less than half would stay free."""
    for _ in range(9):
        processes.add(memory / "rings")
    with pytest.raises(
        NoRoomError, match=rf"{memory}/rings has no room.* of 64 MiB are free, and half stays"
    ):
        processes.add(memory / "rings")

    assert free_bytes(memory) >= 32 * MIB
    assert processes.sizes == [4.0] * 7 + [2.0, 1.0]
    assert len(list((memory / "rings").iterdir())) == 9


def test_what_the_application_has_in_shared_memory_counts(memory: Path, processes: Processes) -> None:
    """Half of the file system stays free, whatever fills the other half."""
    (memory / "theirs").write_bytes(b"x" * 30 * MIB)
    processes.add(memory / "rings")

    assert processes.sizes == [1.0]
    assert free_bytes(memory) >= 32 * MIB


STARTED = """
import sys
from kaspan.interceptor.reporters.ring import SpanRing
print("ready", flush=True)
sys.stdin.readline()
ring = SpanRing(sys.argv[1], 4 << 20, {}, sys.argv[2])
print(ring._file.data_bytes, flush=True)
sys.stdin.readline()
"""


def test_half_stays_free_while_many_processes_start_at_once(memory: Path, disk: Path) -> None:
    """At no moment have processes that make their rings at the same time taken more than half."""
    least, started = free_bytes(memory), []
    for _ in range(15):
        command = [sys.executable, "-c", STARTED, str(memory / "rings"), str(disk)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        )
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    deadline = time.monotonic() + 60
    while len(rings(memory / "rings")) + len(rings(disk)) < len(started):
        least = min(least, free_bytes(memory))
        assert time.monotonic() < deadline
    for process in started:
        process.communicate(timeout=60)

    assert least >= 32 * MIB


def test_ring_that_is_being_made_counts_as_made(
    memory: Path, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that looks after another has looked, and not taken its room yet, sees what that will take."""
    (memory / "theirs").write_bytes(b"x" * 26 * MIB)
    look = ring_file.room

    def look_and_let_another_make_its_ring(directory: int) -> Any:
        found = look(directory)
        monkeypatch.setattr(ring_file, "room", look)
        processes.add(memory / "rings")
        return found

    monkeypatch.setattr(ring_file, "room", look_and_let_another_make_its_ring)
    processes.add(memory / "rings")

    assert processes.sizes == [1.0, 4.0]
    assert free_bytes(memory) >= 32 * MIB


def test_ring_that_takes_its_room_while_another_process_looks_counts(
    memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is allocated between the looks at the file system and at the claims is not free for others."""
    (memory / "rings").mkdir(mode=0o700)
    with (memory / "rings" / ".1-a.tmp").open("wb") as unfinished:
        unfinished.truncate(20 * MIB)
        look = os.fstatvfs

        def look_and_allocate(descriptor: int) -> os.statvfs_result:
            found = look(descriptor)
            os.posix_fallocate(unfinished.fileno(), 0, 20 * MIB)
            return found

        monkeypatch.setattr(os, "fstatvfs", look_and_allocate)
        directory = os.open(memory / "rings", os.O_RDONLY)
        spare_bytes = room.room(directory).spare_bytes
        os.close(directory)

    assert spare_bytes <= 12 * MIB


def test_ring_that_nobody_finishes_takes_no_room_for_ever(memory: Path, processes: Processes) -> None:
    """What a process announced that was killed before it had a ring counts for a minute only."""
    (memory / "rings").mkdir(mode=0o700)
    unfinished = memory / "rings" / ".1-a.tmp"
    unfinished.touch()
    os.truncate(unfinished, 30 * MIB)
    processes.add(memory / "rings")
    os.utime(unfinished, (0, time.time() - CLAIM_S - 1))
    processes.add(memory / "rings")

    assert processes.sizes == [1.0, 4.0]


def test_smaller_ring_is_warned_of_once(
    memory: Path, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning says how much there is, what was done, and what helps."""
    (memory / "theirs").write_bytes(b"x" * 29 * MIB)
    processes.add(memory / "rings")

    (said,) = [record.getMessage() for record in caplog.records]
    assert "no room for a span ring of 4.0 MiB: 35 of 64 MiB are free, and half stays free" in said
    assert "in a smaller ring there, of 2.0 MiB" in said
    assert "--shm-size" in said


def test_ring_goes_to_the_disk_where_shared_memory_has_no_room(
    memory: Path, disk: Path, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    """A ring on a disk is as large as was asked for and keeps its spans as well; one warning says where."""
    (memory / "theirs").write_bytes(b"x" * 40 * MIB)
    ring = processes.add(memory / "rings", disk)
    ring.put(b"{}")

    (path,) = rings(disk)
    assert processes.sizes == [4.0]
    assert RingReader(disk).take_payloads(path) == [b"{}"]
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"in a ring in {disk}" in said


def test_disk_is_no_place_where_the_agent_does_not_look(
    memory: Path, disk: Path, processes: Processes
) -> None:
    """An agent that reads the rings in shared memory and not those on the disk would never find them."""
    (memory / "theirs").write_bytes(b"x" * 40 * MIB)
    (memory / "rings").mkdir(mode=0o700)
    agent = os.open(memory / "rings", os.O_RDONLY)
    fcntl.flock(agent, fcntl.LOCK_EX)
    with pytest.raises(NoRoomError):
        processes.add(memory / "rings", disk)
    disk.mkdir(mode=0o700)
    on_disk = os.open(disk, os.O_RDONLY)
    fcntl.flock(on_disk, fcntl.LOCK_EX)
    processes.add(memory / "rings", disk)
    os.close(agent)
    os.close(on_disk)

    assert len(rings(disk)) == 1


@pytest.mark.parametrize(
    ("kind", "inodes", "is_kept"),
    [
        (b"ext4", 1000, True),
        (b"btrfs", 0, False),
        (b"nfs4", 1000, False),
        (b"overlay", 1000, True),
        (b"overlay", 0, False),
        (b"tmpfs", 0, True),
    ],
)
def test_fallback_is_where_room_that_was_allocated_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes, inodes: int, is_kept: bool
) -> None:
    """Not on btrfs, also not below a container's overlay: there, the file system counts no inodes."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    status = os.fstatvfs(descriptor)
    seen = SimpleNamespace(
        f_blocks=status.f_blocks, f_bavail=status.f_bavail, f_frsize=status.f_frsize, f_files=inodes
    )
    monkeypatch.setattr(room, "_file_system", lambda _: kind)
    monkeypatch.setattr(os, "fstatvfs", lambda _: seen)

    assert room.room(descriptor).keeps_room == is_kept
    os.close(descriptor)


@pytest.fixture
def short(memory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this the machine's shared memory, full to more than half; there is no other place for rings."""
    (memory / "theirs").write_bytes(b"x" * 40 * MIB)
    monkeypatch.setattr(build, "default_ring_dir", lambda: str(memory / "rings"))
    monkeypatch.setattr(build, "default_fallback_dir", lambda: str(memory / "theirs" / "rings"))
    return memory


@pytest.mark.parametrize("is_set", [False, True], ids=["default directory", "directory that was set"])
def test_spans_go_by_http_where_there_is_no_room_for_any_ring(
    short: Path, is_set: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The agent of this machine is reported to; the one warning says so."""
    zipkin_stub = ZipkinStub()
    monkeypatch.setattr(build, "local_agent", lambda: zipkin_stub.url)
    ring_dir = short / ("others" if is_set else "rings")
    reporter: Any = Reporters(Interceptor(ring_dir=str(ring_dir))).make({})
    reporter.put(b'{"id":"1"}')
    reporter.close()
    zipkin_stub.close()

    assert [report.body for report in zipkin_stub.reports] == [b'[{"id":"1"}]']
    (said,) = [record.getMessage() for record in caplog.records]
    assert str(ring_dir) in said
    assert f"reports them to {zipkin_stub.url}" in said


def test_agent_reads_the_disk_as_well_when_nothing_is_set() -> None:
    """Application and agent meet at both places without a setting."""
    assert default_ring_dirs() == (default_ring_dir(), default_fallback_dir())


def test_header_says_how_large_a_smaller_ring_is(memory: Path, processes: Processes) -> None:
    """The agent reads rings of any size: the header and the file agree."""
    (memory / "theirs").write_bytes(b"x" * 30 * MIB)
    processes.add(memory / "rings")
    (path,) = rings(memory / "rings")

    assert read_header(path).data_bytes == MIB
    assert path.stat().st_size == layout.HEADER_BYTES + MIB
