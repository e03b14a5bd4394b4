"""kaspan.agent.spool.spool: what is stored stays until it is delivered."""

from __future__ import annotations

import logging
import os
import resource
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters
from kaspan.agent.spool.lock import SpoolError
from kaspan.agent.spool.portions import FEWEST_ROWS, MOST_BYTES
from kaspan.agent.spool.spool import Spool
from kaspan.agent.spool.transaction import BatchRow, Deleted, Transaction
from support.no_locks import refuse_locks

MAX_BYTES = 1024 * 1024
LARGE = 10_000_000


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state" / "spool.db")


class Opener:
    """Opens the spool, again and again as one agent after the other does: the one before is closed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._spool: Spool | None = None

    def open(self, *senders: str, max_bytes: int = MAX_BYTES) -> Spool:
        self.close()
        self._spool = Spool(self._path, max_bytes)
        self._spool.register(senders or ["zipkin"])
        return self._spool

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()
        self._spool = None


@pytest.fixture
def opener(path: str) -> Iterator[Opener]:
    opener = Opener(path)
    yield opener
    opener.close()


@pytest.fixture
def spool(opener: Opener) -> Spool:
    return opener.open()


def batch(text: bytes) -> Batch:
    return Batch(1, text)


def everything(spool: Spool, sender: str = "zipkin") -> list[bytes]:
    """Give the batches that a sender has not passed, one by one."""
    bodies, last_id = [], spool.cursor(sender)
    while message := spool.read(last_id, 1):
        bodies.append(message.body)
        last_id = message.last_id
    return bodies


def test_batches_survive_the_process_that_stored_them(spool: Spool, path: str) -> None:
    """What `put` returned for is on disk: another process that opens the same files finds it."""
    spool.put([batch(b"{1}"), batch(b"{2}")], {"/rings/a": 64})
    copy = f"{path}.copy"
    Path(copy).write_bytes(Path(path).read_bytes())  # a kill leaves this, and no more
    after = Spool(copy, MAX_BYTES)
    after.register(["zipkin"])
    assert everything(after) == [b"{1}", b"{2}"]
    assert after.positions() == {"/rings/a": 64}
    after.close()


def test_spans_and_ring_positions_are_stored_together_or_not_at_all(spool: Spool) -> None:
    """A refused batch leaves its ring's position where it was."""
    spool.put([], {"/rings/a": 8})
    with pytest.raises(SpoolFull):
        spool.put([batch(b"x" * (MAX_BYTES + 1))], {"/rings/a": 16})
    assert spool.positions() == {"/rings/a": 8}
    assert everything(spool) == []


def test_message_joins_consecutive_batches_up_to_a_size(spool: Spool) -> None:
    """A sender gets as much as it asked for, in order, and never less than one batch."""
    spool.put([batch(bytes([ordinal]) * 100) for ordinal in b"abcd"], {})
    message = spool.read(0, 2 * (100 + len(SEPARATOR)))
    assert message is not None
    assert message.body == b"a" * 100 + SEPARATOR + b"b" * 100
    assert message.spans == 2
    following = spool.read(message.last_id, 1)
    assert following is not None
    assert following.body == b"c" * 100


def test_batches_are_kept_until_every_sender_has_passed_them(spool: Spool, path: str) -> None:
    """A sender that is behind loses nothing to one that is ahead."""
    spool.register(["zipkin", "console"])
    spool.put([batch(b"{1}"), batch(b"{2}")], {})
    spool.advance("zipkin", 2)
    spool.save()
    assert everything(spool, "console") == [b"{1}", b"{2}"]
    spool.advance("console", 1)
    spool.save()
    assert (spool.totals.spans, everything(spool, "console")) == (1, [b"{2}"])


def test_cursor_survives_a_restart(opener: Opener, spool: Spool) -> None:
    """What was delivered and saved is not sent again."""
    spool.register(["zipkin", "console"])
    spool.put([batch(b"{1}"), batch(b"{2}")], {})
    spool.advance("zipkin", 1)
    spool.save()
    spool = opener.open("zipkin", "console")
    assert everything(spool) == [b"{2}"]


def test_put_saves_what_senders_have_passed(opener: Opener, spool: Spool) -> None:
    """In steady flow a cursor costs no transaction of its own."""
    spool.put([batch(b"{1}")], {})
    spool.advance("zipkin", 1)
    spool.put([batch(b"{2}")], {})
    assert spool.totals.spans == 1
    spool = opener.open()
    assert everything(spool) == [b"{2}"]


def test_batch_that_comes_after_all_were_deleted_is_not_taken_for_delivered(
    opener: Opener, spool: Spool
) -> None:
    """Row ids are never used twice, also over restarts: a cursor is never ahead of what comes."""
    spool.put([batch(b"{1}"), batch(b"{2}")], {})
    spool.advance("zipkin", 2)
    spool.save()
    spool = opener.open()
    spool.put([batch(b"{3}")], {})
    assert everything(spool) == [b"{3}"]


def test_new_sender_starts_at_the_oldest_batch(opener: Opener, spool: Spool) -> None:
    """A sender added to the settings gets what is still there."""
    spool.put([batch(b"{1}")], {})
    spool = opener.open("zipkin", "console")
    assert everything(spool, "console") == [b"{1}"]


def test_full_spool_refuses_until_there_is_room(spool: Spool) -> None:
    """agent.spool.max_bytes bounds what waits, and the refusal says so."""
    spool.put([batch(b"x" * (MAX_BYTES - 10))], {})
    with pytest.raises(
        SpoolFull, match=rf"holds {MAX_BYTES - 10} bytes .* agent\.spool\.max_bytes is {MAX_BYTES}"
    ):
        spool.put([batch(b"y" * 11)], {})
    spool.advance("zipkin", 1)
    spool.save()
    spool.put([batch(b"y" * 11)], {})
    assert everything(spool) == [b"y" * 11]


def test_full_spool_says_so_for_as_long_as_it_lasts(spool: Spool) -> None:
    """Somebody who asks is told why nothing is taken, until there is room."""
    spool.put([batch(b"x" * MAX_BYTES)], {})
    assert spool.full is None
    with pytest.raises(SpoolFull) as raised:
        spool.put([batch(b"y")], {})
    assert spool.full == str(raised.value)
    assert not spool.is_disk_full
    spool.advance("zipkin", 1)
    spool.save()
    assert spool.full is None


def test_lag_of_a_sender_is_what_it_has_not_passed(opener: Opener) -> None:
    """Each sender is behind by its own number of batches, and by the age of the oldest of them."""
    spool = opener.open("fast", "slow")
    before_us = time.time_ns() // 1000
    spool.put([batch(b"{1}"), batch(b"{2}"), batch(b"{3}")], {})
    spool.advance("fast", 3)
    spool.advance("slow", 1)
    assert spool.behind("fast") == (0, None)
    batches, oldest_us = spool.behind("slow")
    assert batches == 2
    assert oldest_us is not None
    assert oldest_us >= before_us


def test_room_is_known_after_a_restart(opener: Opener, spool: Spool) -> None:
    """The limit counts what an earlier agent left."""
    spool.put([batch(b"x" * (MAX_BYTES - 10))], {})
    spool = opener.open()
    with pytest.raises(SpoolFull):
        spool.put([batch(b"y" * 11)], {})


def test_file_is_its_users_alone(spool: Spool, path: str) -> None:
    """Spans may say much about a business: directory 0700, every file 0600."""
    spool.put([batch(b"{1}")], {})
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    for name in os.listdir(os.path.dirname(path)):
        assert stat.S_IMODE(os.stat(f"{os.path.dirname(path)}/{name}").st_mode) == 0o600, name


def test_batch_that_was_not_put_back_is_found_behind_others(spool: Spool) -> None:
    """Whatever was asked before, and whoever asks: only a batch for all senders is one that nobody tried."""
    spool.register(["zipkin"])
    spool.put([batch(b"{1}")], {})
    spool.put_back([batch(b"{2}"), batch(b"{3}")], "zipkin")
    assert [spool.has_untried(after_id) for after_id in (0, 1, 2, 3)] == [True, False, False, False]
    spool.put([batch(b"{4}")], {})
    spool.put_back([batch(b"{5}")], "zipkin")
    assert [spool.has_untried(after_id) for after_id in (3, 1, 0, 2, 4, 5)] == [True] * 4 + [False] * 2


def test_batches_that_were_put_back_are_looked_at_once(spool: Spool) -> None:
    """Thousands of them would cost milliseconds for each message that is refused before them."""
    spool.register(["zipkin"])
    spool.put([batch(b"{1}")], {})
    spool.put_back([batch(b"{2}")] * 2000, "zipkin")
    steps = [0]

    def count() -> None:
        steps[0] += 1

    spool.database._connection.set_progress_handler(count, 100)
    assert not spool.has_untried(1)
    first, steps[0] = steps[0], 0
    assert not spool.has_untried(2)
    assert steps[0] < first / 10


def test_second_agent_is_refused_and_told_who_holds_the_spool(spool: Spool, path: str) -> None:
    """Two agents on one spool would deliver twice and delete from under each other."""
    with pytest.raises(SpoolError, match=f"{path} is in use by another agent, pid {os.getpid()}"):
        Spool(path, MAX_BYTES)


def test_spool_that_cannot_be_locked_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the system's: no other agent is there that somebody could stop."""
    refuse_locks(monkeypatch)
    with pytest.raises(SpoolError, match=f"{path} cannot be locked: No locks available"):
        Spool(path, MAX_BYTES)


def test_lock_of_an_ended_agent_is_free(opener: Opener, spool: Spool, path: str) -> None:
    """The lock goes with its process, whatever its file says."""
    opener.close()
    assert Path(f"{path}.lock").read_text() == f"{os.getpid()}\n"
    opener.open()


@pytest.mark.parametrize(
    "content",
    [b"no database at all, but longer than its header" * 100, b"SQLite format 3\0" + b"\xff" * 5000],
)
def test_damaged_file_is_moved_aside_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """A damaged spool does not keep the agent from starting; the file stays for inspection."""
    path = tmp_path / "spool.db"
    path.write_bytes(content)
    spool = Spool(str(path), MAX_BYTES)
    spool.register(["zipkin"])
    spool.put([batch(b"{1}")], {})
    assert everything(spool) == [b"{1}"]
    (aside,) = tmp_path.glob("spool.db.damaged-*")
    assert aside.read_bytes() == content
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert str(aside) in record.getMessage()
    spool.close()


def fill_and_damage(spool: Spool, path: str) -> int:
    """Put more into the spool than its cache holds, write over every page, and give the number of spans."""
    spool.max_bytes *= 8
    for _ in range(5):
        spool.put([batch(bytes(MAX_BYTES // 8)) for _ in range(7)], {"/rings/a": 8})
    with open(path, "r+b") as file:
        for offset in range(16384, os.path.getsize(path), 16384):
            file.seek(offset)
            file.write(b"\xff" * 1000)
    return spool.totals.spans


def test_file_that_is_damaged_while_open_is_moved_aside(spool: Spool, path: str, tmp_path: Path) -> None:
    """Work goes on in a new file; a sender's place in the old one hides nothing in the new one."""
    fill_and_damage(spool, path)
    assert spool.read(0, LARGE) is None
    spool.advance("zipkin", 35)
    spool.put([batch(b"{3}")], {"/rings/a": 16})
    assert everything(spool) == [b"{3}"]
    assert spool.positions() == {"/rings/a": 16}
    assert len(list(tmp_path.glob("state/spool.db.damaged-*[0-9]"))) == 1


def test_spans_of_a_damaged_file_are_counted_as_dropped(spool: Spool, path: str) -> None:
    """What the file held when it was found damaged is gone undelivered, and that is not silent."""
    spans = fill_and_damage(spool, path)
    assert spool.read(0, LARGE) is None
    assert (spool.damages, spool.totals.spans, dict(spool.dropped)) == (1, 0, {"spool_damaged": spans})


def test_cursor_that_is_ahead_of_all_batches_is_not_believed(
    opener: Opener, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No sender can be there, and what waits for it would be deleted as delivered."""
    spool = opener.open("zipkin", "console")
    spool.put([batch(b"{1}"), batch(b"{2}"), batch(b"{3}")], {})
    spool.advance("zipkin", 2)
    spool.save()
    opener.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("update senders set cursor = cursor + 2048 where name = 'zipkin'")
        connection.commit()
    spool = opener.open("zipkin", "console")
    assert (spool.cursor("zipkin"), spool.cursor("console")) == (0, 0)
    assert everything(spool) == [b"{1}", b"{2}", b"{3}"]
    assert "the cursor of zipkin is damaged" in caplog.text


def test_spool_of_a_newer_version_is_not_touched(opener: Opener, spool: Spool, path: str) -> None:
    """An older agent says so and ends rather than guess."""
    opener.close()
    connection = sqlite3.connect(path)
    connection.execute("alter table batches add column more text")
    connection.execute("pragma user_version=99")
    connection.close()
    for _ in range(2):
        with pytest.raises(SpoolError, match="made by a newer kaspan"):
            opener.open()


@pytest.mark.parametrize("version", [0, 1, 3, 99, -5])
def test_version_that_does_not_go_with_the_tables_is_damage(
    opener: Opener, spool: Spool, path: str, tmp_path: Path, version: int
) -> None:
    """A flipped bit there keeps no agent from starting."""
    opener.close()
    connection = sqlite3.connect(path)
    connection.execute(f"pragma user_version={version}")
    connection.close()
    spool = opener.open()
    spool.put([batch(b"{}")], {})
    assert len(list(tmp_path.glob("state/spool.db.damaged-*[0-9]"))) == 1


REMOVED = {
    "file": ["spool.db"],
    "journal": ["spool.db-journal"],
    "both": ["spool.db", "spool.db-journal"],
    "everything": ["spool.db", "spool.db-journal", "spool.db.lock"],
}


@pytest.mark.parametrize("names", REMOVED.values(), ids=REMOVED.keys())
@pytest.mark.parametrize("is_moved", [False, True])
def test_spool_that_is_removed_under_the_agent_is_written_again(
    spool: Spool, path: str, caplog: pytest.LogCaptureFixture, names: list[str], is_moved: bool
) -> None:
    """What `put` returned for is in the file that the next agent opens, also what was there before."""
    spool.put([batch(b"{1}")], {"/rings/a": 8})
    directory = os.path.dirname(path)
    for name in names:
        if is_moved:
            os.rename(f"{directory}/{name}", f"{directory}/{name}.away")
        else:
            os.unlink(f"{directory}/{name}")
    if names == REMOVED["everything"] and not is_moved:
        os.rmdir(directory)
    spool.put([batch(b"{2}")], {"/rings/a": 16})
    spool.put([batch(b"{3}")], {"/rings/a": 24})
    after = copied(path)
    assert everything(after) == [b"{1}", b"{2}", b"{3}"]
    assert after.positions() == {"/rings/a": 24}
    after.close()
    said = ["removed" in record.getMessage() for record in caplog.records]
    assert said == [True] * ("spool.db" in names)
    assert not list(Path(directory).glob("*.damaged-*"))
    with pytest.raises(SpoolError, match="in use by another agent"):
        Spool(path, MAX_BYTES)
    for suffix in ("", "-journal", ".lock"):
        assert stat.S_IMODE(os.stat(path + suffix).st_mode) == 0o600


def copied(path: str) -> Spool:
    """Open what a kill would leave now."""
    copy = f"{path}.copy"
    Path(copy).write_bytes(Path(path).read_bytes())
    after = Spool(copy, MAX_BYTES)
    after.register(["zipkin"])
    return after


def test_spool_that_is_removed_is_written_again_while_nothing_comes(spool: Spool, path: str) -> None:
    """What waits there is safe again before the next span comes."""
    spool.put([batch(b"{1}")], {})
    os.unlink(path)
    spool.database.keep_files()
    after = copied(path)
    assert everything(after) == [b"{1}"]
    after.close()


def test_removed_spool_that_cannot_be_written_again_takes_nothing(
    spool: Spool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client is told to come again, since a kill would lose what it sends; what is there is still read."""
    spool.put([batch(b"{1}")], {})
    os.rename(path, f"{path}.away")
    Path(path).write_text("another's")
    with monkeypatch.context() as forbidden:
        forbidden.setattr("os.rename", forbid)
        for _ in range(5):
            with pytest.raises(SpoolFull, match=r"spool\.db was removed, and cannot be written again"):
                spool.put([batch(b"{2}")], {})
        assert spool.is_disk_full
        assert Path(path).read_text() == "another's"
    assert everything(spool) == [b"{1}", b"{2}"]  # and not each time that it was tried
    spool.put([batch(b"{3}")], {})
    after = copied(path)
    assert everything(after) == [b"{1}", b"{2}", b"{3}"]
    after.close()


def test_removed_spool_survives_a_shortage_of_descriptors(spool: Spool, path: str) -> None:
    """While no new file can be opened, the connection is all there is of what waits: it stays open."""
    spool.put([batch(b"{1}")], {})
    os.unlink(path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(path, os.O_RDONLY | os.O_CREAT)
    os.close(lowest)
    os.unlink(path)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(SpoolFull, match="cannot be written again"):
            spool.database.keep_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert everything(spool) == [b"{1}"]
    spool.put([batch(b"{2}")], {})
    after = copied(path)
    assert everything(after) == [b"{1}", b"{2}"]
    after.close()


def forbid(*arguments: object) -> None:
    raise PermissionError("Operation not permitted")


def test_other_spool_in_the_place_of_the_removed_one_is_moved_aside(
    spool: Spool, path: str, tmp_path: Path
) -> None:
    """Somebody put a copy back: what it holds is not lost, and what this agent holds neither."""
    spool.put([batch(b"{1}")], {})
    Path(f"{path}.new").write_bytes(Path(path).read_bytes())
    os.rename(f"{path}.new", path)
    spool.put([batch(b"{2}")], {})
    after = copied(path)
    assert everything(after) == [b"{1}", b"{2}"]
    after.close()
    assert len(list(tmp_path.glob("state/spool.db.damaged-*[0-9]"))) == 1


def test_spool_that_another_agent_has_taken_meanwhile_is_left_to_it(spool: Spool, path: str) -> None:
    """Its file was removed with its lock, and another agent has begun there: nothing is taken here."""
    spool.put([batch(b"{1}")], {})
    for suffix in ("", "-journal", ".lock"):
        os.unlink(path + suffix)
    other = Spool(path, MAX_BYTES)
    with pytest.raises(SpoolFull, match="in use by another agent"):
        spool.put([batch(b"{2}")], {})
    other.close()


def test_what_comes_after_a_spool_was_cut_off_goes_into_a_new_file(spool: Spool, path: str) -> None:
    """In the old one it would be behind a hole, and the file as long as before."""
    spool.put([batch(bytes(MAX_BYTES // 2))], {})
    os.truncate(path, 20_000)
    spool.put([batch(bytes(MAX_BYTES // 4)), batch(bytes(MAX_BYTES // 2))], {})
    assert spool.dropped == {"spool_damaged": 1}
    after = copied(path)
    assert everything(after) == [bytes(MAX_BYTES // 4), bytes(MAX_BYTES // 2)]
    after.close()


def test_spool_that_is_cut_off_meanwhile_takes_nothing_for_safe(spool: Spool, path: str) -> None:
    """What is in the cache alone is gone with the process: it is not said to be stored."""
    spool.put([batch(bytes(MAX_BYTES // 2))], {})

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("insert into rings values ('/rings/a', 8)")
        os.truncate(path, 20_000)

    with pytest.raises(SpoolFull, match="truncated"):
        spool.database.run(work)
    spool.put([batch(b"{2}")], {})
    after = copied(path)
    assert everything(after) == [b"{2}"]
    after.close()


def test_spool_where_no_file_can_be_made_is_refused(tmp_path: Path) -> None:
    """The message names setting, path and reason."""
    (tmp_path / "file").touch()
    with pytest.raises(
        SpoolError, match=r"^agent\.spool\.path: .*/file/spool\.db cannot be created: Not a directory"
    ):
        Spool(str(tmp_path / "file" / "spool.db"), MAX_BYTES)
    (tmp_path / "spool.db").mkdir()
    with pytest.raises(SpoolError, match=r"spool\.db cannot be used: .*Is a directory"):
        Spool(str(tmp_path / "spool.db"), MAX_BYTES)


def test_dead_letters_are_kept_up_to_a_tenth_of_the_spool(opener: Opener, spool: Spool, path: str) -> None:
    """They are for people to look at, and must not fill the disk."""
    assert DeadLetters(spool).add("zipkin", [("HTTP 400", b"x" * (MAX_BYTES // 10 - 8))])
    assert not DeadLetters(spool).add("zipkin", [("HTTP 400", b"y" * 9)])
    spool = opener.open()
    assert not DeadLetters(spool).add("zipkin", [("HTTP 400", b"y" * 9)])
    opener.close()
    connection = sqlite3.connect(path)
    assert connection.execute("select sender, reason, length(span) from dead_letters").fetchall() == [
        ("zipkin", "HTTP 400", MAX_BYTES // 10 - 8)
    ]
    connection.close()


def test_empty_spool_gives_its_space_back_after_an_outage(opener: Opener, path: str) -> None:
    """A file that an outage filled does not stay large for ever."""
    spool = opener.open(max_bytes=1 << 30)
    for _ in range(9):
        spool.put([batch(bytes(8 << 20))], {})
    assert os.path.getsize(path) > 64 << 20
    spool.advance("zipkin", 9)
    spool.save()
    assert os.path.getsize(path) < 1 << 20
    assert os.path.getsize(f"{path}-journal") <= 1 << 20


def test_dead_letters_are_not_written_anew_whenever_the_spool_is_empty(opener: Opener, path: str) -> None:
    """Space is given back where there is more of it than of what stays."""
    spool = opener.open(max_bytes=1 << 30)
    for _ in range(9):
        DeadLetters(spool).add("zipkin", [("HTTP 400", bytes(8 << 20))])
    statements: list[str] = []
    spool.database._connection.set_trace_callback(statements.append)
    for row in range(1, 6):
        spool.put([batch(bytes(1 << 20))], {})
        spool.advance("zipkin", row)
        spool.save()
    assert "vacuum" not in map(str.lower, statements)
    assert os.path.getsize(path) > 64 << 20


def test_full_disk_is_no_reason_not_to_delete(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows go in one transaction, and where the disk is full for that, as few as its reserve is for."""
    spool.put([batch(b"{}")] * 3000, {})
    portions: list[int] = []
    delete = Transaction.delete_batches

    def deleting(self: Transaction, found: Sequence[BatchRow], limit: int) -> Deleted:
        before = self.totals.spans
        deleted = delete(self, found, limit)
        portions.append(before - self.totals.spans)
        if portions[-1] > FEWEST_ROWS and len(portions) < 8:
            raise sqlite3.OperationalError("database or disk is full")
        return deleted

    monkeypatch.setattr(Transaction, "delete_batches", deleting)
    spool.advance("zipkin", 3000)
    spool.save()
    assert spool.totals.spans == 0
    assert portions == [2048, 32, 64, 32, 64, 32, 64, 32, 64, 128, 256, 512, 1024, 888]


def test_large_rows_are_deleted_in_transactions_of_bounded_size(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they hold is read for that, and others wait meanwhile."""
    spool = opener.open(max_bytes=1 << 30)
    size = MOST_BYTES // 3
    spool.put([batch(bytes(size))] * 5, {})
    spool.advance("zipkin", 5)
    left = []
    transact = spool.transact
    monkeypatch.setattr(spool, "transact", lambda work: (transact(work), left.append(spool.totals.spans))[0])
    spool.save()
    assert left == [2, 0]


def test_nobody_waits_less_because_batches_were_lost_to_damage(spool: Spool, path: str) -> None:
    """Deleted ids are not waiting batches: a sender must not ask for them again and again."""
    spool.put([batch(bytes(MAX_BYTES // 2))], {})
    spool.max_bytes *= 8
    for _ in range(6):
        spool.put([batch(bytes(MAX_BYTES // 2))], {})
    with open(path, "r+b") as file:
        file.seek(16384)
        file.write(b"\xff" * (os.path.getsize(path) - 16384))
    assert spool.read(0, LARGE) is None
    assert not spool.wait(0, 0.0)


def test_waiting_ends_when_a_batch_comes(spool: Spool) -> None:
    """A sender with nothing to do is woken by the batch, and at once if it is there already."""
    putter = threading.Timer(0.05, spool.put, ([batch(b"{1}")], {}))
    putter.start()
    assert spool.wait(0, 30.0)
    putter.join()
    assert spool.wait(0, 0.0)
    assert not spool.wait(1, 0.0)
