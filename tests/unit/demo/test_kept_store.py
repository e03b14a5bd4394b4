"""kaspan.demo.kept_store: where the demo leaves its traces."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaspan.demo.kept_store import NotKeptError, keep, place
from kaspan.store.lock import acquire_lock


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


def made(path: Path, name: str) -> Path:
    """Make a store with one file."""
    path.mkdir()
    (path / name).touch()
    return path


def test_store_is_moved_to_its_place(tmp_path: Path, temporary: Path) -> None:
    """One for each user, so that they do not get in each other's way."""
    assert keep(made(tmp_path / "store", "1.spans")) == temporary / f"kaspan-demo-{os.geteuid()}"
    assert os.listdir(place()) == ["1.spans"]


def test_store_of_the_demo_before_is_replaced(tmp_path: Path) -> None:
    """Any number of demos take the room of one."""
    keep(made(tmp_path / "first", "1.spans"))
    keep(made(tmp_path / "second", "2.spans"))

    assert os.listdir(place()) == ["2.spans"]


def test_store_that_a_server_writes_is_left_alone(tmp_path: Path) -> None:
    """Its files would be deleted under it."""
    keep(made(tmp_path / "first", "1.spans"))
    lock = acquire_lock(str(place()))
    with pytest.raises(NotKeptError, match="is used by another process"):
        keep(made(tmp_path / "second", "2.spans"))
    os.close(lock)

    assert "1.spans" in os.listdir(place())


@pytest.mark.parametrize("other", ["file", "link"])
def test_what_is_not_the_users_directory_is_left_alone(tmp_path: Path, other: str) -> None:
    """Others may write among the temporary files: nothing is deleted through a link."""
    mine = made(tmp_path / "mine", "precious")
    if other == "file":
        place().touch()
    else:
        place().symlink_to(mine)
    with pytest.raises(NotKeptError, match="is not a directory of this user"):
        keep(made(tmp_path / "store", "1.spans"))

    assert os.listdir(mine) == ["precious"]


def test_directory_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold what that user wants read."""
    owner = os.geteuid()
    made(place(), "1.spans")
    before = place()
    monkeypatch.setattr("kaspan.demo.kept_store.place", lambda: before)
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(NotKeptError, match="is not a directory of this user"):
        keep(made(tmp_path / "store", "2.spans"))
