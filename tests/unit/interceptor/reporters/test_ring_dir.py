"""The directory of the rings: private, refused where others could meddle, bounded where no agent comes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kaspan.interceptor.reporters.ring import SpanRing
from kaspan.interceptor.reporters.ring_dir import (
    MAX_UNREAD_ORPHANS,
    RingDirError,
    is_read,
    open_ring_dir,
    refuse_unread_orphans,
)
from kaspan.interceptor.reporters.ring_file import RingFile
from kaspan.wire import ring as layout
from support.mistakes import RING_DIRS
from support.no_locks import refuse_locks


def test_directory_is_made_private(tmp_path: Path) -> None:
    """A directory that is missing is made with mode 0700, whatever the umask."""
    before = os.umask(0o022)
    try:
        os.close(open_ring_dir(str(tmp_path / "rings")))
    finally:
        os.umask(before)

    assert (tmp_path / "rings").stat().st_mode & 0o777 == 0o700


def test_directory_of_ours_is_used_as_it_is(tmp_path: Path) -> None:
    """A directory that others may read but not write is left as it is."""
    (tmp_path / "rings").mkdir()
    (tmp_path / "rings").chmod(0o755)
    os.close(open_ring_dir(str(tmp_path / "rings")))

    assert (tmp_path / "rings").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(("make", "said"), RING_DIRS.values(), ids=RING_DIRS.keys())
def test_directory_that_others_could_meddle_with_is_refused(
    make: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    """The error names the setting, the directory and the rule; no file is made there."""
    path = make(tmp_path)

    with pytest.raises(RingDirError) as refused:
        open_ring_dir(str(path))

    assert all(words in str(refused.value) for words in ("interceptor.ring_dir", str(path), said))


def test_directory_writable_by_its_group_is_refused(tmp_path: Path) -> None:
    """A user who may write there could replace a ring by another file."""
    (tmp_path / "rings").mkdir()
    (tmp_path / "rings").chmod(0o770)

    with pytest.raises(RingDirError, match=r"0770.*0700"):
        open_ring_dir(str(tmp_path / "rings"))


def make_orphans(directory: Path, count: int, read_pos: int = 0) -> list[Path]:
    """Leave rings as ended processes do."""
    directory.mkdir(mode=0o700, exist_ok=True)
    header = bytearray(layout.pack_header(layout.MIN_DATA_BYTES, b"{}"))
    header[layout.READ_POS : layout.READ_POS + 8] = read_pos.to_bytes(8, "little")
    paths = [directory / f"{number}-{os.urandom(4).hex()}{layout.SUFFIX}" for number in range(count)]
    for path in paths:
        path.write_bytes(header)
    return paths


def refuse(directory: Path) -> None:
    descriptor = open_ring_dir(str(directory))
    try:
        refuse_unread_orphans(descriptor, str(directory))
    finally:
        os.close(descriptor)


def test_too_many_rings_that_nobody_reads_are_the_end_of_new_ones(tmp_path: Path) -> None:
    """At 64 unread rings of ended processes a new one is refused, with what to do about it."""
    make_orphans(tmp_path / "rings", MAX_UNREAD_ORPHANS)

    with pytest.raises(RingDirError, match=r"64 span rings.*kaspan agent"):
        SpanRing(str(tmp_path / "rings"), layout.MIN_DATA_BYTES, {})

    assert len(list((tmp_path / "rings").iterdir())) == MAX_UNREAD_ORPHANS


def test_fewer_unread_rings_are_no_reason_to_refuse(tmp_path: Path) -> None:
    """Below the bound a process makes its ring."""
    make_orphans(tmp_path / "rings", MAX_UNREAD_ORPHANS - 1)

    ring = SpanRing(str(tmp_path / "rings"), layout.MIN_DATA_BYTES, {})

    assert len(list((tmp_path / "rings").iterdir())) == MAX_UNREAD_ORPHANS
    ring.abandon()


def test_rings_that_an_agent_has_read_do_not_count(tmp_path: Path) -> None:
    """While an agent works, dead rings that it has not removed yet do not stop new ones."""
    make_orphans(tmp_path / "rings", MAX_UNREAD_ORPHANS + 10, read_pos=8)

    refuse(tmp_path / "rings")


def test_rings_of_living_processes_do_not_count(tmp_path: Path) -> None:
    """However many processes are at work, each has its ring."""
    paths = make_orphans(tmp_path / "rings", MAX_UNREAD_ORPHANS)
    descriptor = os.open(paths[0], os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        refuse(tmp_path / "rings")
    finally:
        os.close(descriptor)


def test_files_that_are_no_rings_do_not_count(tmp_path: Path) -> None:
    """Other files, empty ones, links and pipes in the directory are not taken for rings."""
    directory = tmp_path / "rings"
    paths = make_orphans(directory, MAX_UNREAD_ORPHANS - 1)
    (directory / "notes.txt").write_bytes(paths[0].read_bytes())
    (directory / "empty.ring").touch()
    (directory / "link.ring").symlink_to(paths[0])
    os.mkfifo(directory / "pipe.ring")
    (directory / "folder.ring").mkdir()

    refuse(directory)


def test_directory_whose_lock_cannot_be_asked_for_is_read_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An application takes a directory for the agent's only if an agent holds its lock; it sees no error."""
    with monkeypatch.context() as without_locks:
        refuse_locks(without_locks)
        assert not is_read(str(tmp_path))
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert is_read(str(tmp_path))
    os.close(descriptor)


class Shutdown(Exception):
    """What the application's signal handler raises."""


@pytest.mark.parametrize("is_behind", [False, True], ids=["before the rename", "behind the rename"])
def test_exception_of_the_application_while_a_ring_is_made_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_behind: bool
) -> None:
    """What a signal handler raises while the ring is made is raised as it is, and no file is left."""
    rename = os.rename

    def interrupted(*args: Any, **kwargs: Any) -> None:
        if is_behind:
            rename(*args, **kwargs)
        raise Shutdown

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(Shutdown):
        RingFile(str(tmp_path / "rings"), 1 << 20, {})

    assert list((tmp_path / "rings").iterdir()) == []
