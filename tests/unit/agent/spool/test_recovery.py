"""agent.spool.recovery and `kaspan agent spool recover`: what can be read of a damaged spool comes back."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kaspan.agent.batch import SEPARATOR, Batch, split
from kaspan.agent.spool.control_socket import ControlSocket
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters, Selection
from kaspan.agent.spool.lock import SpoolError
from kaspan.agent.spool.recovery import Recovered, recover
from kaspan.agent.spool.spool import Spool
from kaspan.cli import agent
from support.ring_writer import span

MAX_BYTES = 1 << 30
PAGE_BYTES = 16 * 1024
SIZES = (0, 300, 5_000, 40_000)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = opened(tmp_path / "spool.db")
    yield spool
    spool.close()


def opened(path: Path) -> Spool:
    spool = Spool(str(path), MAX_BYTES)
    spool.register(["zipkin", "kafka"])
    return spool


def fill(spool: Spool, rows: int, rng: random.Random) -> list[bytes]:
    """Put rows of one to three spans of many sizes; all the spans."""
    filled = [
        [span(number * 10 + index + 1, rng.choice(SIZES)) for index in range(rng.choice((1, 1, 3)))]
        for number in range(rows)
    ]
    spool.put(
        [Batch(len(row), SEPARATOR.join(row)) for row in filled],
        {f"/rings/{number}": number for number in range(rows)},
    )
    return [one for row in filled for one in row]


def waiting(spool: Spool, sender: str) -> list[bytes]:
    """Give the spans that wait for a sender."""
    spans, last_id = [], spool.cursor(sender)
    while message := spool.read(last_id, 1 << 20, sender):
        last_id = message.last_id
        if message.spans:
            spans += split(message.body)
    return spans


def test_everything_that_was_not_delivered_comes_back_for_whom_it_is(spool: Spool, tmp_path: Path) -> None:
    """Rows small and large, those that only one sender had not passed, dead letters; nothing that is done."""
    old = opened(tmp_path / "old.db")
    spans = fill(old, 300, random.Random(1))
    DeadLetters(old).add("kafka", [("HTTP 400: bad", b"{1}"), ("HTTP 413", b"{" + b"2" * 50_000)])
    DeadLetters(old).add("former", [("HTTP 400", b"{3}")])
    old.advance("zipkin", 200)
    old.advance("kafka", 100)
    old.save()
    old.put([Batch(1, span(7_000_000))], {})
    expected = {name: [*waiting(old, name)] for name in ("zipkin", "kafka")}
    old.close()
    found = recover(spool, str(tmp_path / "old.db"))
    assert sorted(waiting(spool, "zipkin")) == sorted(expected["zipkin"])
    assert sorted(waiting(spool, "kafka")) == sorted(expected["kafka"])
    assert found == Recovered(len(expected["kafka"]), 3, 0)
    assert len(spans) > len(expected["kafka"]) > len(expected["zipkin"])
    letters = DeadLetters(spool)
    assert [(letter.sender, letter.reason) for letter in letters.find(Selection())] == [
        ("kafka", "HTTP 400: bad"),
        ("kafka", "HTTP 413"),
        ("former", "HTTP 400"),
    ]


@pytest.mark.parametrize("kind", ["tables", "tree", "anywhere"])
@pytest.mark.parametrize("seed", range(3))
def test_damage_costs_what_lay_there_and_no_more(spool: Spool, tmp_path: Path, kind: str, seed: int) -> None:
    """Of a file with 32 KB of noise in it, all other spans are read, whatever led to them."""
    rng = random.Random(seed)
    path = tmp_path / "old.db"
    old = opened(path)
    spans = fill(old, 400, rng)
    old.close()
    raw = bytearray(path.read_bytes())
    at = {
        "tables": 0,
        "tree": PAGE_BYTES,  # the root of the tree of batches
        "anywhere": rng.randrange(5 * PAGE_BYTES, len(raw) - 2 * PAGE_BYTES),
    }[kind]
    raw[at : at + 2 * PAGE_BYTES] = rng.randbytes(2 * PAGE_BYTES)
    path.write_bytes(raw)
    recover(spool, str(path))
    found = set(waiting(spool, "zipkin"))
    assert found <= set(spans)
    lost = set(spans) - found
    # Of small spans three pages hold very many; a chain of pages is lost as a whole.
    assert sum(map(len, lost)) < 3 * PAGE_BYTES + 3 * 3 * max(SIZES)
    assert not lost or kind == "anywhere"


def test_span_that_is_damaged_costs_none_beside_it(spool: Spool, tmp_path: Path) -> None:
    """Of a row, the spans that are whole come back, and the others are counted."""
    path = tmp_path / "old.db"
    old = opened(path)
    row = [span(number, 500) for number in range(1, 101)]
    old.put([Batch(100, SEPARATOR.join(row))], {})
    old.close()
    raw = path.read_bytes()
    at = raw.index(b'"id":"%016x"' % 50)
    path.write_bytes(raw[:at] + b"\xff" * 10 + raw[at + 10 :])
    assert recover(spool, str(path)) == Recovered(99, 0, 1)
    assert waiting(spool, "zipkin") == row[:49] + row[50:]


def test_rows_of_a_sender_that_is_gone_are_not_put_back(spool: Spool, tmp_path: Path) -> None:
    """Without their sender they would not be sent, so they are not counted as recovered."""
    old = opened(tmp_path / "old.db")
    old.register(["zipkin", "former"])
    old.put([Batch(1, span(1))], {})
    old.put_back([Batch(1, span(2))], "former")
    old.close()
    assert recover(spool, str(tmp_path / "old.db")) == Recovered(1, 0, 0)
    assert waiting(spool, "zipkin") == waiting(spool, "kafka") == [span(1)]


def test_file_that_is_no_spool_gives_nothing(spool: Spool, tmp_path: Path) -> None:
    """Whatever is in it: nothing is raised and nothing made up."""
    path = tmp_path / "old.db"
    rng = random.Random(3)
    for content in (b"", b"text", rng.randbytes(200_000), b"\x0d" * 100_000, bytes(100_000)):
        path.write_bytes(content)
        assert recover(spool, str(path)) == Recovered()
    for _ in range(200):
        leaf = bytearray(b"\x0d" + rng.randbytes(PAGE_BYTES - 1))
        leaf[3:5] = (300).to_bytes(2, "big")
        path.write_bytes(leaf * 2)
        recover(spool, str(path))


def test_recovery_that_does_not_fit_stores_nothing(spool: Spool, tmp_path: Path) -> None:
    """It says how much there is, and can be run again when there is room."""
    old = opened(tmp_path / "old.db")
    fill(old, 100, random.Random(4))
    old.close()
    spool.max_bytes = 100_000
    with pytest.raises(SpoolFull, match=r"old\.db holds \d+ bytes of spans"):
        recover(spool, str(tmp_path / "old.db"))
    assert spool.totals.spans == 0


def test_spool_of_the_first_version_is_recovered(spool: Spool, tmp_path: Path) -> None:
    """Its rows have a column less."""
    connection = sqlite3.connect(tmp_path / "old.db")
    connection.executescript(
        "pragma page_size=16384;"
        "create table batches (id integer primary key, spans integer, bytes integer, received_us integer,"
        " body blob);"
        "create table rings (path text primary key, position integer) without rowid;"
        "create table senders (name text primary key, cursor integer) without rowid;"
        "create table dead_letters (id integer primary key, sender text, died_us integer, reason text,"
        " span blob);"
        "insert into batches values (5, 1, 7, 0, '{\"a\":1}');"
        "insert into batches values (6, 1, 7, 0, x'7b2262223a327d');"
        "insert into senders values ('zipkin', 4), ('kafka', 0);"
    )
    connection.close()
    assert recover(spool, str(tmp_path / "old.db")) == Recovered(1, 0, 0)
    assert waiting(spool, "zipkin") == waiting(spool, "kafka") == [b'{"b":2}']


@pytest.mark.parametrize("is_running", [False, True])
def test_command_recovers_what_was_set_aside_and_names_it_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_running: bool
) -> None:
    """While the agent runs and while it does not; each file once."""
    path = tmp_path / "spool.db"
    spool = opened(path)
    spans = fill(spool, 20, random.Random(5))
    spool.close()
    raw = bytearray(path.read_bytes())
    raw[:PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(raw)
    spool = opened(path)
    assert (spool.damages, spool.totals.spans, spool.dropped["spool_damaged"]) == (1, 0, len(spans))
    control = ControlSocket(spool)
    thread = threading.Thread(target=control.run)
    if is_running:
        thread.start()
    else:
        spool.close()
    assert agent.main(["spool", "recover", "--spool", str(path)]) == 0
    out = capsys.readouterr().out
    assert f"{len(spans)} spans and 0 dead letters are back in the spool; 0 more" in out
    assert agent.main(["spool", "recover", "--spool", str(path)]) == 0
    assert "no damaged spool" in capsys.readouterr().err
    control.stop()
    if is_running:
        thread.join(30)
        spool.close()
    spool = opened(path)
    assert waiting(spool, "zipkin") == spans
    spool.close()
    assert len(list(tmp_path.glob("spool.db.recovered-*[0-9]"))) == 1


def test_command_says_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and the file's name."""
    opened(tmp_path / "spool.db").close()
    missing = tmp_path / "missing.db"
    assert agent.main(["spool", "recover", "--spool", str(tmp_path / "spool.db"), str(missing)]) == 1
    assert f"{missing}: [Errno 2] No such file" in capsys.readouterr().err


@pytest.mark.parametrize("is_running", [False, True])
def test_command_takes_any_name_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_running: bool
) -> None:
    """One that is not UTF-8 too; what does not print is shown escaped."""
    other = opened(tmp_path / "other.db")
    spans = fill(other, 20, random.Random(7))
    other.close()
    directory = os.path.join(os.fsencode(tmp_path), b"\xff")
    os.mkdir(directory)
    os.rename(tmp_path / "other.db", os.path.join(directory, b"spool.db.damaged-1"))
    with serving(tmp_path / "spool.db", is_running):
        name = os.fsdecode(os.path.join(directory, b"spool.db.damaged-1"))
        assert agent.main(["spool", "recover", "--spool", str(tmp_path / "spool.db"), name]) == 0
    assert rf"\udcff/spool.db.damaged-1: {len(spans)} spans" in capsys.readouterr().out
    assert os.listdir(directory) == [b"spool.db.recovered-1"]


@contextmanager
def serving(path: Path, is_running: bool) -> Iterator[None]:
    """Have an agent's part hold the spool and answer, if it is to run."""
    spool = opened(path)
    if not is_running:
        spool.close()
        yield
        return
    control = ControlSocket(spool)
    thread = threading.Thread(target=control.run)
    thread.start()
    try:
        yield
    finally:
        control.stop()
        thread.join(30)
        spool.close()


def test_pipe_does_not_hold_the_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A named pipe is refused at once, and the next question is answered."""
    os.mkfifo(tmp_path / "pipe")
    with serving(tmp_path / "spool.db", is_running=True):
        arguments = ["--spool", str(tmp_path / "spool.db")]
        assert agent.main(["spool", "recover", *arguments, str(tmp_path / "pipe")]) == 1
        assert "Not a regular file" in capsys.readouterr().err
        assert agent.main(["dead-letter", "list", *arguments]) == 0


def test_spool_in_use_is_not_put_into_itself(spool: Spool, tmp_path: Path) -> None:
    """All that waits would be there twice."""
    spans = fill(spool, 20, random.Random(8))
    (tmp_path / "link.db").symlink_to(spool.path)
    with pytest.raises(SpoolError, match="is the spool in use"):
        recover(spool, str(tmp_path / "link.db"))
    assert waiting(spool, "zipkin") == spans


def test_waiting_spans_of_a_file_found_damaged_at_the_start_are_counted(tmp_path: Path) -> None:
    """They are gone until somebody recovers them, and that is not silent."""
    path = tmp_path / "spool.db"
    spool = opened(path)
    fill(spool, 50, random.Random(6))
    spool.advance("zipkin", 30)
    spool.advance("kafka", 20)
    spool.save()
    left = spool.totals.spans
    spool.close()
    with open(path, "r+b") as file:
        file.seek(0)
        file.write(os.urandom(100))
    spool = opened(path)
    assert spool.dropped == {"spool_damaged": left}
    spool.close()
