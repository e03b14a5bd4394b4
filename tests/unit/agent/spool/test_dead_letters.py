"""kaspan.agent.spool.dead_letters: what was refused is looked at, sent again, or thrown away."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.batch import Batch
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.spool import SENDER_REMOVED, Spool
from support.ring_writer import span

MAX_BYTES = 1024 * 1024
LARGE = 10_000_000
ALL = Selection()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(str(tmp_path / "spool.db"), MAX_BYTES)
    spool.register(["zipkin", "kafka"])
    yield spool
    spool.close()


@pytest.fixture
def letters(spool: Spool) -> DeadLetters:
    """Give three letters of zipkin, with the numbers 0 to 2, and two of kafka, 3 and 4."""
    for number in range(5):
        DeadLetters(spool).add("zipkin" if number < 3 else "kafka", [(f"HTTP 400: {number}", span(number))])
    return DeadLetters(spool)


def delivered(spool: Spool, sender: str) -> list[bytes]:
    """Pass everything for a sender; what it was."""
    taken = []
    while message := spool.read(spool.cursor(sender), 1, sender):
        if message.spans:
            taken.append(message.body)
        spool.advance(sender, message.last_id)
    return taken


def test_letters_are_listed_without_their_spans(letters: DeadLetters) -> None:
    """Oldest first, in pages, of one sender or all."""
    assert [(letter.sender, letter.reason, letter.span) for letter in letters.find(ALL)] == [
        ("zipkin", "HTTP 400: 0", b""),
        ("zipkin", "HTTP 400: 1", b""),
        ("zipkin", "HTTP 400: 2", b""),
        ("kafka", "HTTP 400: 3", b""),
        ("kafka", "HTTP 400: 4", b""),
    ]
    ids = [letter.id for letter in letters.find(ALL)]
    assert [letter.id for letter in letters.find(ALL, after_id=ids[1], limit=2)] == ids[2:4]
    assert [letter.id for letter in letters.find(Selection(sender="kafka"))] == ids[3:]
    assert [letter.id for letter in letters.find(Selection(ids=(ids[1], 99), sender="zipkin"))] == [ids[1]]


def test_letter_is_shown_with_its_span(letters: DeadLetters) -> None:
    """The bytes are the ones that were refused."""
    first = letters.find(ALL)[0]
    shown = letters.get(first.id)
    assert shown is not None
    assert (shown.span, shown.size_bytes) == (span(0), len(span(0)))
    assert letters.get(99) is None


def test_replayed_letters_go_to_the_sender_that_refused_them_and_to_no_other(
    spool: Spool, letters: DeadLetters
) -> None:
    """The others have them already."""
    assert letters.replay(ALL) == 5
    totals = spool.totals
    assert (letters.find(ALL), totals.dead_spans, totals.dead_bytes, totals.spans) == ([], 0, 0, 5)
    spool.put([Batch(1, b"after")], {})
    assert delivered(spool, "kafka") == [span(3), span(4), b"after"]
    assert delivered(spool, "zipkin") == [span(0), span(1), span(2), b"after"]
    spool.save()
    assert spool.totals.spans == 0


def test_sender_passes_over_what_is_for_others_alone(spool: Spool, letters: DeadLetters) -> None:
    """It holds up nothing and waits for nothing: its cursor goes beyond."""
    letters.replay(Selection(sender="kafka"))
    message = spool.read(0, LARGE, "zipkin")
    assert message is not None
    assert (message.spans, message.body) == (0, b"")
    spool.advance("zipkin", message.last_id)
    assert spool.read(message.last_id, LARGE, "zipkin") is None
    assert not spool.wait(message.last_id, 0)


def test_some_letters_can_be_replayed(spool: Spool, letters: DeadLetters) -> None:
    """By id, by sender, or both."""
    ids = [letter.id for letter in letters.find(ALL)]
    assert letters.replay(Selection(ids=(ids[0], ids[3]), sender="zipkin")) == 1
    assert [letter.id for letter in letters.find(ALL)] == ids[1:]
    assert delivered(spool, "zipkin") == [span(0)]


def test_replay_survives_the_agent(spool: Spool, letters: DeadLetters, tmp_path: Path) -> None:
    """What was put back is on disk, for the right sender."""
    letters.replay(Selection(sender="kafka"))
    spool.close()
    again = Spool(str(tmp_path / "spool.db"), MAX_BYTES)
    assert set(again.senders) == {"zipkin", "kafka"}
    again.register(["zipkin", "kafka"])
    assert delivered(again, "kafka") == [span(3), span(4)]
    assert delivered(again, "zipkin") == []
    again.close()


def test_letters_of_a_sender_that_is_gone_stay(spool: Spool) -> None:
    """Without their sender they cannot be sent; they can be listed and purged."""
    DeadLetters(spool).add("former", [("HTTP 400", span(1))])
    letters = DeadLetters(spool)
    assert letters.replay(ALL) == 0
    assert len(letters.find(ALL)) == 1
    assert letters.purge(ALL) == 1


def test_replay_into_a_full_spool_leaves_the_letters(spool: Spool, letters: DeadLetters) -> None:
    """They are spans again only where there is room for them."""
    spool.put([Batch(1, b"x" * MAX_BYTES)], {})
    with pytest.raises(SpoolFull):
        letters.replay(ALL)
    assert (len(letters.find(ALL)), spool.totals.dead_spans) == (5, 5)


def test_purged_letters_are_gone_and_make_room(spool: Spool, letters: DeadLetters) -> None:
    """By sender, by id, by age; what is left is counted."""
    assert letters.purge(Selection(sender="kafka")) == 2
    assert letters.purge(Selection(died_before_us=0)) == 0
    assert spool.totals.dead_spans == 3
    assert spool.totals.dead_bytes == sum(len(span(number)) for number in range(3))
    assert letters.purge(Selection(ids=(1, 1, 99))) == 1
    assert letters.purge(ALL) == 2
    assert (spool.totals.dead_spans, spool.totals.dead_bytes, letters.find(ALL)) == (0, 0, [])


def test_many_letters_are_replayed_and_purged(spool: Spool) -> None:
    """However many there are: in several transactions, and with as many ids as one likes."""
    for number in range(300):
        DeadLetters(spool).add("zipkin", [("HTTP 400", span(number))])
    letters = DeadLetters(spool)
    assert letters.replay(Selection(ids=tuple(range(1, 200_000, 2)))) == 150
    assert letters.purge(ALL) == 150
    assert spool.totals.spans == 150


def test_removed_sender_keeps_nothing_and_what_it_had_not_passed_is_said(
    spool: Spool, letters: DeadLetters, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its cursor goes, and with it what only it was waited for: dropped, counted, logged."""
    spool.put([Batch(7, b"both")], {})
    letters.replay(Selection(sender="kafka"))
    assert delivered(spool, "zipkin") == [b"both"]
    spool.save()
    assert spool.totals.spans == 9
    spool.close()
    again = Spool(str(tmp_path / "spool.db"), MAX_BYTES)
    again.register(["zipkin"])
    assert again.dropped == {SENDER_REMOVED: 9}
    (record,) = caplog.records
    assert (
        record.getMessage()
        == "sender kafka is not configured any more: 9 spans that only it had not passed are dropped"
    )
    again.save()
    assert again.totals.spans == 0
    again.close()
    connection = sqlite3.connect(tmp_path / "spool.db")
    assert connection.execute("select name from senders").fetchall() == [("zipkin",)]
    connection.close()


def test_what_others_have_not_passed_stays_when_a_sender_is_removed(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost by removing a sender that others were behind."""
    spool.put([Batch(1, b"both")], {})
    spool.close()
    again = Spool(str(tmp_path / "spool.db"), MAX_BYTES)
    again.register(["zipkin", "new"])
    assert not again.dropped
    assert not caplog.records
    assert delivered(again, "zipkin") == delivered(again, "new") == [b"both"]
    again.close()


def test_spool_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    """An agent that is updated goes on with what the one before has stored."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "create table batches (id integer primary key, spans integer, bytes integer, received_us integer,"
        " body blob);"
        "create table rings (path text primary key, position integer) without rowid;"
        "create table senders (name text primary key, cursor integer) without rowid;"
        "create table dead_letters (id integer primary key, sender text, died_us integer, reason text,"
        " span blob);"
        "insert into batches values (5, 1, 3, 0, x'616263');"
        "insert into senders values ('zipkin', 4);"
        "insert into dead_letters values (1, 'zipkin', 0, 'HTTP 400', x'646566');"
        "pragma user_version=1;"
    )
    connection.close()
    spool = Spool(str(path), MAX_BYTES)
    spool.register(["zipkin"])
    assert DeadLetters(spool).replay(ALL) == 1
    assert delivered(spool, "zipkin") == [b"abc", b"def"]
    spool.close()
