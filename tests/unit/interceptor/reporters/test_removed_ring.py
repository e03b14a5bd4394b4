"""A ring that somebody removes, as systemd-logind does at a user's last logout: no span stays in it."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kaspan.interceptor import failures
from kaspan.interceptor.failures import tell_suppressed
from kaspan.interceptor.reporters import ring, ring_file
from kaspan.wire import ring as layout
from support.ring_reader import RingReader, read_header, rings
from support.waiting import wait_until


class Owned:
    """A ring as an application has it, under a clock that goes on by `pass_s`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(ring, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.directory = directory
        self.ring = ring.SpanRing(str(directory), layout.MIN_DATA_BYTES, {"service": "shop"})
        self.put = self.ring.put
        tell_suppressed(self.ring.note_suppressed)

    def pass_s(self, seconds: float) -> None:
        self.now_s += seconds

    def put_slowly(self, payload: bytes) -> None:
        """Put a span some seconds after the one before, and some before the next."""
        self.pass_s(2)
        self.put(payload)

    def take(self) -> list[bytes]:
        (path,) = rings(self.directory)
        return RingReader(self.directory).take_payloads(path)


@pytest.fixture
def owned(
    implementation: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Owned]:
    monkeypatch.setattr(failures, "_failures", type(failures._failures)())
    caplog.set_level(logging.WARNING, logger="kaspan")
    made = Owned(tmp_path / "rings", monkeypatch)
    yield made
    tell_suppressed(None)
    made.ring.abandon()


def test_spans_go_on_into_a_new_ring_with_what_nobody_had_taken(owned: Owned) -> None:
    """Directory and ring are made anew, and every span is there: those from before, and those to come."""
    for payload in (b"1", b"2"):
        owned.put_slowly(payload)
    shutil.rmtree(owned.directory)
    for payload in (b"3", b"4"):
        owned.put_slowly(payload)

    assert sorted(owned.take()) == [b"1", b"2", b"3", b"4"]


def test_spans_that_the_agent_has_taken_do_not_come_again(owned: Owned) -> None:
    """What is put into the new ring is what no agent had taken."""
    owned.put_slowly(b"1")
    assert owned.take() == [b"1"]
    owned.put_slowly(b"2")
    shutil.rmtree(owned.directory)
    owned.put_slowly(b"3")

    assert sorted(owned.take()) == [b"2", b"3"]


def test_agent_that_still_reads_the_removed_ring_finds_nothing_in_it(owned: Owned) -> None:
    """What was put into the new ring would be delivered twice otherwise."""
    owned.put_slowly(b"1")
    assert owned.take() == [b"1"]
    owned.put_slowly(b"2")
    (path,) = rings(owned.directory)
    with open(path, "rb") as kept:
        shutil.rmtree(owned.directory)
        owned.put_slowly(b"3")
        header = layout.Header(kept.read(layout.HEADER_BYTES))

    assert (header.read_pos, header.write_pos) == (layout.frame_bytes(1), layout.frame_bytes(1))
    assert sorted(owned.take()) == [b"2", b"3"]


def test_ring_is_replaced_once_even_if_the_new_one_is_too_small(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was unread as much is kept as there is room for; to drop the rest looks for no ring again."""
    unread = [b"%d" % number * 1000 for number in range(100)]
    monkeypatch.setattr(owned.ring._file, "unread", lambda: unread)
    shutil.rmtree(owned.directory)
    owned.put_slowly(b"1")
    (path,) = rings(owned.directory)

    kept = owned.take()
    assert len(kept) == len(set(kept))
    assert read_header(path).dropped_spans == len(unread) - len(kept)


def test_replacing_that_a_signal_handler_ends_is_done_again(
    owned: Owned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exception is the application's; with the next span, the new ring gets what no agent had taken."""
    owned.put_slowly(b"1")
    shutil.rmtree(owned.directory)
    with monkeypatch.context() as patch:
        patch.setattr(owned.ring._file, "unread", lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            put_and_go_on(owned, b"2")
    owned.put_slowly(b"3")

    reader = RingReader(owned.directory)
    taken = [payload for path in rings(owned.directory) for payload in reader.take_payloads(path)]
    assert sorted(taken) == [b"1", b"2", b"3"]


def put_and_go_on(owned: Owned, payload: bytes) -> None:
    owned.put_slowly(payload)
    wait_until(lambda: False, "the exception", deadline_s=10, every_s=0.001)


def test_removal_is_noticed_in_a_stream_of_spans(owned: Owned) -> None:
    """Where spans come without a pause, it is looked for the ring once a second, between two of them."""
    shutil.rmtree(owned.directory)
    owned.pass_s(1.5)
    for number in range(60):
        owned.put(b"%0200d" % number)

    assert len(owned.take()) == 60


def test_full_ring_that_was_removed_is_noticed_as_well(owned: Owned) -> None:
    """A ring that takes no span any more still looks whether it is there; its count of drops goes with it."""
    while True:
        (path,) = rings(owned.directory)
        if read_header(path).dropped_spans:
            break
        owned.put(b"x" * 1000)
    shutil.rmtree(owned.directory)
    owned.put_slowly(b"y" * 1000)
    (path,) = rings(owned.directory)

    assert read_header(path).dropped_spans >= 1
    assert len(owned.take()) == layout.MIN_DATA_BYTES // layout.frame_bytes(1000)


def test_removal_is_told_once_and_counted(owned: Owned, caplog: pytest.LogCaptureFixture) -> None:
    """One warning names both rings and what removes them; the header's count of failures says how often."""
    for _ in range(3):
        owned.put_slowly(b"1")
        shutil.rmtree(owned.directory)
        owned.put_slowly(b"2")
    (path,) = rings(owned.directory)

    (said,) = [record.getMessage() for record in caplog.records]
    assert "RemoveIPC" in said
    assert f"{owned.directory}/" in said
    assert read_header(path).suppressed_errors == 3


def test_ring_that_cannot_be_replaced_keeps_its_spans(owned: Owned) -> None:
    """While no new ring can be made, the old one goes on; it is tried again a minute later."""
    owned.put_slowly(b"1")
    shutil.rmtree(owned.directory)
    owned.directory.touch()
    owned.put_slowly(b"2")
    owned.directory.unlink()
    owned.put_slowly(b"3")
    assert not owned.directory.exists()
    owned.pass_s(60)
    owned.put_slowly(b"4")

    assert sorted(owned.take()) == [b"1", b"2", b"3", b"4"]


def test_process_in_another_root_keeps_its_ring(owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """After chroot the path leads elsewhere; the ring is where it was, and an agent reads it."""
    named = ring_file._named

    def elsewhere(path: str, _: Any = None) -> tuple[int, int]:
        if path == "/":
            return 0, 0
        raise FileNotFoundError(path)

    monkeypatch.setattr(ring_file, "_named", elsewhere)
    owned.put_slowly(b"1")
    monkeypatch.setattr(ring_file, "_named", named)
    (path,) = rings(owned.directory)

    assert RingReader(owned.directory).take_payloads(path) == [b"1"]


def test_process_that_ends_leaves_no_span_in_a_ring_that_was_removed(owned: Owned) -> None:
    """What was put after the last look is looked after at the end."""
    shutil.rmtree(owned.directory)
    owned.put(b"1")
    owned.ring.close()

    assert owned.take() == [b"1"]


def test_process_that_ends_makes_no_ring_for_nothing(owned: Owned) -> None:
    """A removed ring that the agent has emptied is not made anew at the end."""
    owned.put(b"1")
    owned.take()
    shutil.rmtree(owned.directory)
    owned.ring.close()

    assert not owned.directory.exists()


def test_old_ring_is_let_go_of(owned: Owned) -> None:
    """An agent that still reads the removed ring can see that its owner is done with it."""
    (path,) = rings(owned.directory)
    descriptor = os.open(path, os.O_RDONLY)
    shutil.rmtree(owned.directory)
    owned.put_slowly(b"1")

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError where it is held
    os.close(descriptor)
