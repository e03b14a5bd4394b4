"""The span store under faults: full disks, damage, removed files, kills."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kaspan.store.partitions import list_partitions
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import SpanStore, StoreError, StoreFull
from support.full_disk import fill
from support.killed_agent import KILLS
from support.store_clock import StoreClock
from support.stored_spans import rows, settings, span, spans, stored_ids

TESTS = Path(__file__).parent.parent


def opened(path: Path, clock: StoreClock) -> SpanStore:
    return SpanStore(settings(path, max_age_s=86_400.0 * 30), clock.clock_s, clock.boot_clock_s)


def test_nothing_is_lost_on_a_full_disk(disk: Path) -> None:
    """What is held stays held, what is stored is read, and all is stored when there is room again."""
    store = SpanStore(settings(disk / "store"))
    store.accept(spans(1, 100))
    store.commit()
    fill(disk / "filler")
    for first in range(101, 601, 100):
        store.accept(spans(first, 100, tags={"x": random.Random(first).randbytes(2000).hex()}))
        with pytest.raises(StoreFull, match="store cannot be written: database or disk is full"):
            store.commit()
    assert store.held_spans == 500
    assert stored_ids(disk / "store") == list(range(1, 101))
    (disk / "filler").unlink()
    store.commit()
    assert store.held_spans == 0
    assert sorted(stored_ids(disk / "store")) == list(range(1, 601))
    store.close()


def test_new_partition_waits_for_room(disk: Path) -> None:
    """A full disk where a partition is sealed and the next one is made loses nothing either."""
    clock = StoreClock()
    store = opened(disk / "store", clock)
    store.accept(spans(1, 100))
    store.commit()
    fill(disk / "filler")
    clock.advance(86_400.0)
    store.commit()
    store.accept(spans(101, 500))
    with pytest.raises(StoreFull):
        store.commit()
    (disk / "filler").unlink()
    store.commit()
    clock.advance(86_400.0)
    store.commit()
    assert set(stored_ids(disk / "store")) == set(range(1, 601))
    (newest, *_) = list_partitions(str(disk / "store"))[::-1]
    assert rows(newest, "select is_sealed from state") == [(1,)]
    store.close()


def test_old_spans_make_room_on_a_full_disk(disk: Path) -> None:
    """Limits are kept while nothing can be written, so a store with a disk of its own frees itself."""
    clock = StoreClock()
    store = opened(disk / "store", clock)
    store.accept(b",".join(span(number, tags={"x": os.urandom(1000).hex()}) for number in range(1, 1001)))
    store.commit()
    clock.advance(86_400.0)
    store.commit()
    fill(disk / "filler")
    clock.advance(86_400.0 * 31)
    store.accept(span(1001))
    with pytest.raises(StoreFull):
        store.commit()
    store.commit()
    assert stored_ids(disk / "store") == [1001]
    assert store.totals.deleted_spans == 1000
    store.close()


def test_store_that_starts_on_a_full_disk_waits_for_room(disk: Path) -> None:
    """Each commit names the directory, and leaves no file behind; when there is room, all is stored."""
    fill(disk / "filler")
    store = SpanStore(settings(disk / "store"))
    store.accept(span(1))
    for _ in range(3):
        with pytest.raises(StoreFull, match=str(disk / "store")):
            store.commit()
        assert os.listdir(disk / "store") == ["lock"]
    (disk / "filler").unlink()
    store.close()
    assert stored_ids(disk / "store") == [1]


def sealed_and_open(path: Path) -> None:
    """Make a store of two sealed partitions and an open one, with three spans each."""
    clock = StoreClock()
    store = opened(path, clock)
    for first in (1, 4, 7):
        if first > 1:
            clock.advance(86_400.0)
            store.commit()
        store.accept(spans(first, 3))
        store.commit()
    store.close()
    assert stored_ids(path) == list(range(1, 10))


@pytest.mark.parametrize("damaged", [0, 1, 2])
@pytest.mark.parametrize("offset", [0, 100])
def test_damaged_partition_is_moved_aside(
    tmp_path: Path, damaged: int, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are read, new spans are stored, and the log names the file; the damaged one is kept."""
    sealed_and_open(tmp_path)
    path = Path(list_partitions(str(tmp_path))[damaged].path)
    left = [number for number in range(1, 10) if (number - 1) // 3 != damaged]
    content = path.read_bytes()
    path.write_bytes(content[:offset] + bytes(16384) + content[offset + 16384 :])
    store = SpanStore(settings(tmp_path))
    store.accept(span(10))
    store.commit()
    assert sorted(stored_ids(tmp_path)) == [*left, 10]
    assert store.totals.damaged_partitions == 1
    assert store.totals.spans == 7
    assert Path(f"{path}.damaged").exists()
    assert f"partition {path} of the span store is damaged" in caplog.text
    store.close()
    assert SpanStore(settings(tmp_path)).totals.damaged_partitions == 1


def test_damage_that_a_commit_finds_loses_nothing_that_is_held(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A partition that is damaged while it is written is moved aside, and the commit goes into a new one."""
    store = SpanStore(settings(tmp_path))
    store.accept(spans(1, 3000))
    store.close()
    store = SpanStore(settings(tmp_path))
    path = Path(list_partitions(str(tmp_path))[0].path)
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(os.urandom(path.stat().st_size - 100))
    store.accept(spans(3001, 3000))
    store.commit()
    assert set(range(3001, 6001)) <= set(stored_ids(tmp_path))
    assert store.totals.damaged_partitions == 1
    assert "is damaged" in caplog.text
    store.close()


def test_directory_that_is_removed_under_the_writer_is_made_again(tmp_path: Path) -> None:
    """What is held at that moment and what comes later is stored where the next reader looks."""
    store = SpanStore(settings(tmp_path / "store"))
    store.accept(span(1))
    store.commit()
    shutil.rmtree(tmp_path / "store")
    store.accept(span(2))
    store.commit()
    store.accept(span(3))
    store.commit()
    assert stored_ids(tmp_path / "store") == [2, 3]
    with pytest.raises(StoreError, match="is written by another process"):
        SpanStore(settings(tmp_path / "store"))
    store.close()


@pytest.mark.processes
def test_every_committed_span_is_found_after_kills(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """SIGKILLs at random moments: all that `commit` returned for is found by its trace id, without repair."""
    source = random.Random(int(os.environ.get("KASPAN_TEST_SEED", "1")))
    committed: list[range] = []
    first = 1
    for _ in range(KILLS):
        command = [sys.executable, "-m", "support.killed_writer", str(tmp_path), str(first)]
        with subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            last = first - 1
            for _ in range(source.randrange(1, 8)):
                last = int(writer.stdout.readline())
            # Then at any moment of the commits that follow.
            signal.sigtimedwait([], source.random() * 0.05)
            writer.kill()
            last = max([last, *map(int, writer.stdout.read().split())])
        committed.append(range(first, last + 1))
        first = last + 10_000
    caplog.set_level(logging.WARNING)
    found = set(stored_ids(tmp_path))
    assert [number for numbers in committed for number in numbers if number not in found] == []
    reader = StoreReader(settings(tmp_path))
    for numbers in committed:
        for number in source.sample(numbers, 20):
            assert [int(each.id, 16) for part in reader.get_trace(f"{number:x}") for each in part] == [number]
    reader.close()
    store = SpanStore(settings(tmp_path))
    assert store.totals.damaged_partitions == 0
    store.close()
    print(f"{sum(map(len, committed))} spans committed, 0 lost; {KILLS} kills")
