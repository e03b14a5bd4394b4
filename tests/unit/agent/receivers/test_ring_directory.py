"""kaspan.agent.receivers.ring_directory: which directories and files the agent believes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.agent import _open_directories as opened
from kaspan.agent.receivers.ring_directory import (
    TEMPORARY_AGE_S,
    RingDirectory,
    RingDirectoryError,
)
from kaspan.config import schema
from support.no_locks import refuse_locks
from support.ring_writer import RingWriter

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to other users")
SOMEBODY = 12345


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[RingDirectory]:
    directory = RingDirectory(str(tmp_path / "rings"))
    directory.open()
    yield directory
    directory.close()


def test_missing_directory_is_made_for_its_user_alone(tmp_path: Path) -> None:
    """The agent makes the directory with mode 0700, so that an application may start after it."""
    assert RingDirectory(str(tmp_path / "rings")).open()
    assert stat.S_IMODE((tmp_path / "rings").stat().st_mode) == 0o700


def test_directory_named_after_another_user_is_waited_for(tmp_path: Path) -> None:
    """kaspan-<uid> must belong to that user, or its applications refuse it: the agent does not make it."""
    path = tmp_path / f"kaspan-{os.geteuid() + 1}"
    assert not RingDirectory(str(path)).open()
    assert not path.exists()


def test_default_directory_on_disk_that_is_refused_stops_no_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can make a directory of that name in /var/tmp: the agent starts, and reads the others."""
    (tmp_path / "disk").symlink_to(tmp_path)
    paths = [str(tmp_path / "rings"), str(tmp_path / "disk")]
    with pytest.raises(RingDirectoryError):
        opened(paths, {})
    monkeypatch.setattr(schema, "default_fallback_dir", lambda: paths[1])
    directories = opened(paths, {})

    assert directories[paths[0]].descriptor is not None
    assert directories[paths[1]].descriptor is None
    directories[paths[0]].close()


def test_directory_without_a_parent_is_waited_for(tmp_path: Path) -> None:
    """A parent directory that does not exist yet is not an error."""
    directory = RingDirectory(str(tmp_path / "later" / "rings"))
    assert not directory.open()
    (tmp_path / "later").mkdir()
    assert directory.open()


def test_directory_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    """Somebody who removes the directory and makes it again does not leave the agent with the old one."""
    path = tmp_path / "rings"
    directory = RingDirectory(str(path))
    directory.open()
    path.rename(tmp_path / "old")
    path.mkdir(mode=0o700)
    RingWriter(path, "1-b.ring").die()
    assert directory.open()
    assert directory.ring_names() == ["1-b.ring"]


def test_symlink_is_refused(tmp_path: Path) -> None:
    """A link to a directory is refused: the owner of the link could point it elsewhere."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(RingDirectoryError, match=rf"^agent\.ring_dirs: {tmp_path}/link is a symlink"):
        RingDirectory(str(tmp_path / "link")).open()


def test_file_is_refused(tmp_path: Path) -> None:
    """The error for a file that is not a directory says so."""
    (tmp_path / "file").touch()
    with pytest.raises(RingDirectoryError, match="file is not a directory"):
        RingDirectory(str(tmp_path / "file")).open()


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_directory_where_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    """A user who may write there could replace rings by other files."""
    path = tmp_path / "rings"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(RingDirectoryError, match=f"has mode {mode:04o}, so others may write there"):
        RingDirectory(str(path)).open()


@as_root
def test_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    """A directory that is somebody else's is refused with both users named."""
    path = tmp_path / "rings"
    path.mkdir(mode=0o700)
    os.chown(path, SOMEBODY, -1)
    with pytest.raises(RingDirectoryError, match=f"belongs to uid {SOMEBODY}, and must belong to uid 0"):
        RingDirectory(str(path)).open()


@as_root
def test_root_reads_the_directory_that_is_named_after_its_user(tmp_path: Path) -> None:
    """An agent that runs as root serves the users whose default directories it is given."""
    path = tmp_path / f"kaspan-{SOMEBODY}"
    path.mkdir(mode=0o700)
    os.chown(path, SOMEBODY, -1)
    assert RingDirectory(str(path)).open()


def test_directory_is_read_by_one_agent_alone(directory: RingDirectory) -> None:
    """A second agent on the same rings would take spans away from the first."""
    second = RingDirectory(directory.path)
    with pytest.raises(RingDirectoryError, match="is read by another agent"):
        second.open()
    directory.close()
    assert second.open()
    second.close()


def test_directory_that_cannot_be_locked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the system's: no other agent is there that somebody could stop."""
    refuse_locks(monkeypatch)
    with pytest.raises(RingDirectoryError, match="cannot be locked: No locks available"):
        RingDirectory(str(tmp_path / "rings")).open()


def test_only_finished_rings_are_listed(directory: RingDirectory) -> None:
    """Temporary, hidden and other files are not taken for rings."""
    for name in ("2.ring", "1.ring", ".3.ring", ".4.tmp", "notes.txt"):
        Path(directory.path, name).touch()
    assert directory.ring_names() == ["1.ring", "2.ring"]


def test_what_is_no_regular_file_is_refused_without_waiting(directory: RingDirectory) -> None:
    """A named pipe in a ring's place neither hangs the agent nor is read."""
    os.mkfifo(Path(directory.path, "pipe.ring"))
    with pytest.raises(RingDirectoryError, match="is not a regular file"):
        directory.open_ring("pipe.ring")


def test_symlink_in_a_rings_place_is_not_followed(directory: RingDirectory, tmp_path: Path) -> None:
    """The agent writes into rings, so it must not be led to another file."""
    (tmp_path / "secret").touch()
    Path(directory.path, "link.ring").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        directory.open_ring("link.ring")


def test_ring_of_a_directory_that_is_closed_is_not_looked_for_elsewhere(
    directory: RingDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name without a directory would be one in the current directory."""
    directory.close()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.ring").touch()
    with pytest.raises(FileNotFoundError):
        directory.open_ring("a.ring")


@as_root
def test_file_of_another_user_is_refused(directory: RingDirectory) -> None:
    """A ring belongs to the directory's owner."""
    path = Path(directory.path, "theirs.ring")
    path.touch()
    os.chown(path, SOMEBODY, -1)
    with pytest.raises(RingDirectoryError, match=f"belongs to uid {SOMEBODY}, and its directory to uid 0"):
        directory.open_ring("theirs.ring")


def test_rings_left_unfinished_are_removed_when_they_are_old_and_nobodys(directory: RingDirectory) -> None:
    """What a process was making when it died goes after a minute; what is being made stays."""
    owned = RingWriter(Path(directory.path))
    held = Path(directory.path, ".held.tmp")
    owned.path.rename(held)
    old, young = Path(directory.path, ".old.tmp"), Path(directory.path, ".young.tmp")
    for path in (old, young):
        path.touch()
    for path in (held, old):
        past_s = path.stat().st_mtime - TEMPORARY_AGE_S - 1
        os.utime(path, (past_s, past_s))
    assert list(directory.remove_unfinished()) == [".old.tmp"]
    assert sorted(os.listdir(directory.path)) == [".held.tmp", ".young.tmp"]
    owned.die()


def test_unfinished_ring_stays_while_nobody_knows_whether_its_process_lives(
    directory: RingDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no lock can be asked for, a process may still be making it."""
    path = Path(directory.path, ".old.tmp")
    path.touch()
    past_s = path.stat().st_mtime - TEMPORARY_AGE_S - 1
    os.utime(path, (past_s, past_s))
    refuse_locks(monkeypatch)
    assert list(directory.remove_unfinished()) == []
