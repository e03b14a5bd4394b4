"""kaspan.agent.receivers.ring_receiver with many rings, too few descriptors, and a system short of things."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import msgspec
import pytest

from kaspan.agent.batch import Batch
from kaspan.agent.receivers import ring_receiver, rings
from kaspan.agent.receivers.ring_receiver import SCAN_S
from kaspan.wire import ring as layout
from support.no_locks import refuse_locks
from support.ring_agent import FLUSH_INTERVAL_S, RingAgent, warnings
from support.ring_writer import RingWriter, span

MANY = 300


def fill(writer: RingWriter, first: int) -> set[bytes]:
    """Put spans into a ring until it is full; gives those for which there was room."""
    written = set()
    while writer.put(span(first + len(written))):
        written.add(span(first + len(written)))
    return written


def test_rings_of_many_dead_owners_are_removed_in_one_transaction(agent: RingAgent) -> None:
    """On a slow disk one for each would keep the rings of those that live unread for seconds."""
    dead = [RingWriter(agent.path, f"{number}-a.ring") for number in range(MANY)]
    for number, writer in enumerate(dead):
        writer.put(span(number))
        writer.die()
    before = agent.spool.transactions
    assert len(agent.tick(SCAN_S)) == MANY
    assert os.listdir(agent.path) == []
    assert agent.spool.transactions - before == 2
    assert agent.spool.saved == {}


def test_ring_stays_while_nobody_knows_whether_its_process_lives(
    agent: RingAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no lock can be asked for, a ring is read and kept: its process may write more."""
    agent.tick(SCAN_S)
    writer = RingWriter(agent.path)
    writer.put(span(1))
    with monkeypatch.context() as without_locks:
        refuse_locks(without_locks)
        agent.tick(SCAN_S)
        assert agent.tick(FLUSH_INTERVAL_S) == [span(1)]
        agent.tick(SCAN_S)
        assert os.listdir(agent.path) == [writer.path.name]
    writer.die()
    agent.tick(SCAN_S)
    assert os.listdir(agent.path) == []


def test_living_ring_is_not_kept_waiting_by_dead_ones(agent: RingAgent) -> None:
    """What dead processes left cannot be lost; a full ring of a living one drops what comes."""
    dead = [RingWriter(agent.path, f"{number}-a.ring", 1 << 20) for number in range(8)]
    for writer in dead:
        fill(writer, 1 << 20)
        writer.die()
    living = RingWriter(agent.path, "9-z.ring")
    written = fill(living, 1)
    agent.now_s += SCAN_S
    assert agent.receiver.tick()
    assert agent.spool.puts == 1
    assert written <= set(agent.spool.spans)
    assert len(written) < len(agent.spool.spans)  # the dead have their part
    rounds = 1
    while agent.receiver.tick():
        rounds += 1
        assert agent.spool.puts == rounds
    assert os.listdir(agent.path) == ["9-z.ring"]
    living.die()


def test_end_takes_all_that_dead_rings_hold(agent: RingAgent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where no process lives any more, and what they left needs many transactions."""
    written = set()
    for number in range(8):
        dead = RingWriter(agent.path, f"{number}-a.ring")
        written |= fill(dead, number << 20)
        dead.die()
    monkeypatch.setattr(ring_receiver, "_COMMIT_BYTES", 1000)
    agent.receiver._commit_bytes = 1000
    agent.receiver.stop()
    agent.receiver.run()
    assert sorted(agent.spool.spans) == sorted(written)
    assert agent.spool.puts > 10


def test_dead_rings_are_not_starved_by_living_ones(agent: RingAgent) -> None:
    """Rings that are filled as fast as they are read do not starve the rings of ended processes."""
    living = [RingWriter(agent.path, f"{number}-a.ring", 1 << 20) for number in range(8)]
    dead = RingWriter(agent.path, "9-z.ring")
    dead.put(span(1))
    dead.die()
    for round_ in range(3):
        for writer in living:
            fill(writer, round_ << 20)
        agent.tick(SCAN_S)
    assert span(1) in agent.spool.spans
    assert not dead.path.exists()


def test_end_does_not_wait_for_a_writer_that_does_not_end(
    agent: RingAgent, writer: RingWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rings hold when the agent is told to stop is taken, in as many transactions as it needs."""
    written = fill(writer, 1)
    put = agent.spool.put

    def put_and_write(batches: Iterable[Batch], positions: Mapping[str, int]) -> None:
        put(batches, positions)
        assert agent.spool.puts < 1000
        while writer.put(span(0)):
            pass

    monkeypatch.setattr(agent.spool, "put", put_and_write)
    monkeypatch.setattr(ring_receiver, "_COMMIT_BYTES", 1000)
    agent.receiver._commit_bytes = 1000
    agent.receiver.stop()
    agent.receiver.run()
    assert written == set(agent.spool.spans)
    assert agent.spool.puts > 10


@pytest.fixture
def descriptors(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the agent believe in a limit of open files."""
    return lambda limit: monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))


def test_more_rings_than_descriptors_are_read_in_turns(
    agent: RingAgent,
    descriptors: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each is read before long, half of the descriptors stay free, and how to have more is said once."""
    descriptors(40)
    writers = [RingWriter(agent.path, f"{number:03d}-a.ring") for number in range(MANY)]
    for round_ in range(3):
        expected = set()
        for number, writer in enumerate(writers):
            payload = span(round_ * MANY + number)
            assert writer.put(payload)
            expected.add(payload)
        for _ in range(MANY // 10 + 2):
            agent.tick(0.05)
            assert len(agent.receiver._rings.open) <= 20
        assert expected <= set(agent.spool.spans)
    assert len(agent.spool.spans) == 3 * MANY
    (warning,) = warnings(caplog)
    assert "raise `ulimit -n`" in warning
    for writer in writers:
        writer.die()
    for _ in range(4 * MANY // 20):
        agent.tick(0.05)
    assert os.listdir(agent.path) == []


def test_busy_ring_keeps_its_descriptor_while_others_take_turns(
    agent: RingAgent,
    descriptors: Callable[[int], None],
) -> None:
    """A ring that fills in less time than a turn takes loses nothing among hundreds that are silent."""
    descriptors(40)
    silent = [RingWriter(agent.path, f"{number:03d}-a.ring") for number in range(MANY)]
    busy = RingWriter(agent.path, "999-z.ring")
    busy.put(span(1))
    while not agent.tick(0.05):
        pass
    for round_ in range(1, 50):
        assert fill(busy, round_ << 20)
        agent.tick(0.05)
        assert busy.read_pos == busy.write_pos
    for writer in (*silent, busy):
        writer.die()


def test_turns_end_when_there_are_descriptors_again(
    agent: RingAgent,
    descriptors: Callable[[int], None],
) -> None:
    """All rings stay open once there is room for them, and wait for company again."""
    descriptors(40)
    writers = [RingWriter(agent.path, f"{number}-a.ring") for number in range(50)]
    for _ in range(3):
        agent.tick(0.05)
    descriptors(1024)
    agent.tick(0.05)
    agent.tick(0.05)
    assert len(agent.receiver._rings.open) == 50
    assert not agent.receiver._rings.is_short
    for writer in writers:
        writer.die()


def test_drops_of_a_ring_that_takes_turns_count_once(
    agent: RingAgent,
    descriptors: Callable[[int], None],
) -> None:
    """Opening a ring again does not count again what its writer counted before."""
    descriptors(10)
    writers = [
        RingWriter(agent.path, f"{number}-a.ring", process=b'{"service":"orders"}') for number in range(10)
    ]
    for writer in writers:
        writer.set_header(layout.DROPPED_SPANS, 7)
    for _ in range(20):
        agent.tick(0.05)
    (orders,) = agent.receiver.services()
    assert (orders.dropped_spans, orders.rings) == (70, 10)
    for writer in writers:
        writer.die()


def test_ring_that_is_removed_while_it_waits_for_its_turn_is_named(
    agent: RingAgent,
    descriptors: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it held is gone, which is said and counted; another of its name is read from its start."""
    descriptors(4)
    writers = [RingWriter(agent.path, f"{number}-a.ring") for number in range(5)]
    for number, writer in enumerate(writers):
        writer.put(span(number))
    while len(agent.tick(0.05)) < len(writers):
        pass
    waiting = next(writer for writer in writers if str(writer.path) not in agent.receiver._rings.open)
    waiting.path.unlink()
    again = RingWriter(agent.path, waiting.path.name)
    for number in range(10, 13):
        again.put(span(number))
    for _ in range(10):
        spans = agent.tick(0.05)
    assert set(map(span, range(10, 13))) <= set(spans)
    assert agent.receiver.rejected_rings == 1
    assert warnings(caplog)[1:] == [
        f"ring {waiting.path} of ? was removed or replaced while it waited for its turn"
    ]
    for writer in (*writers, again):
        writer.die()


SHORTAGES = [errno.EMFILE, errno.ENFILE, errno.ENOMEM]


@pytest.mark.parametrize("number", SHORTAGES)
@pytest.mark.parametrize("call", ["open", "pread", "listdir"])
def test_shortage_is_waited_for(
    agent: RingAgent,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
) -> None:
    """Neither the agent ends nor a ring is given up when the system is out of descriptors or memory."""
    known = RingWriter(agent.path, "1-a.ring")
    agent.tick(SCAN_S)
    known.put(span(1))
    new = RingWriter(agent.path, "2-b.ring")
    new.put(span(2))

    def short(*arguments: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, short)
        for _ in range(3):
            agent.tick(FLUSH_INTERVAL_S)
    for _ in range(3):
        spans = agent.tick(FLUSH_INTERVAL_S)
    assert sorted(spans) == [span(1), span(2)]
    assert agent.receiver.rejected_rings == agent.receiver.lost_bytes == 0
    for writer in (known, new):
        writer.die()


def test_position_that_could_not_be_told_is_told_later(
    agent: RingAgent,
    writer: RingWriter,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A writer whose ring is full does not wait for ever for room that there is."""
    written = fill(writer, 1)

    def short(*arguments: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", short)
        assert set(agent.tick(FLUSH_INTERVAL_S)) == written
    assert writer.read_pos == 0
    agent.tick(0.05)
    assert writer.read_pos == writer.write_pos
    assert len(agent.spool.spans) == len(written)


@pytest.mark.parametrize("call", ["open", "pread"])
def test_ring_on_a_broken_disk_is_named_and_others_are_read(
    agent: RingAgent,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    call: str,
) -> None:
    """An error of one file ends that ring only."""
    broken, good = (RingWriter(agent.path, name) for name in ("1-a.ring", "2-b.ring"))
    if call == "pread":
        agent.tick(SCAN_S)
    inode = broken.path.stat().st_ino
    whole = getattr(os, call)

    def failing(which: str | int, *arguments: object, **more: object) -> object:
        if which == broken.path.name or (isinstance(which, int) and os.fstat(which).st_ino == inode):
            raise OSError(errno.EIO, "Input/output error")
        return whole(which, *arguments, **more)

    good.put(span(2))
    monkeypatch.setattr(os, call, failing)
    for _ in range(3):
        spans = agent.tick(FLUSH_INTERVAL_S)
    assert spans == [span(2)]
    (said,) = warnings(caplog)
    assert said == f"{broken.path} is not read: [Errno 5] Input/output error"
    for writer in (broken, good):
        writer.die()


def test_memory_that_is_out_is_waited_for(
    agent: RingAgent,
    writer: RingWriter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What cannot be stored for want of memory stays in the ring, and is tried again in smaller parts."""
    written = fill(writer, 1)
    agent.spool.error = MemoryError()
    agent.spool.room_bytes = 10_000
    agent.tick(FLUSH_INTERVAL_S)
    assert writer.read_pos == 0
    for _ in range(100):
        agent.tick(FLUSH_INTERVAL_S)
    assert set(agent.spool.spans) == written
    assert len(agent.spool.spans) == len(written)
    assert warnings(caplog)[1] == "rings are left unread: there is too little memory"


@pytest.mark.parametrize("name", [b"1-\xff.ring", b"1-\\.ring", b"1-\\udcff.ring", "1-ä.ring".encode()])
def test_ring_may_have_any_name(tmp_path: Path, name: bytes) -> None:
    """Its spans arrive, once, also by an agent that was started again, and what is left of it goes."""
    (tmp_path / "rings").mkdir(mode=0o700)
    agent = RingAgent(tmp_path / "rings")
    writer = RingWriter(agent.path, os.fsdecode(name))
    writer.put(span(1))
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1)]
    writer.set_header(layout.READ_POS, 0)  # as if the agent had been killed before it wrote this
    agent.directory.close()
    agent.restart()
    writer.put(span(2))
    writer.die()
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1), span(2)]
    assert os.listdir(agent.path) == []
    assert agent.spool.saved == {}
    agent.directory.close()


@pytest.mark.parametrize("service", [b"\\ud800", b"\xed\xa0\x80", b"\xff", b"a\\nb\\u202ec\\u0000"])
def test_service_may_be_called_anything(agent: RingAgent, service: bytes) -> None:
    """What is passed on of it can be written as JSON, in UTF-8, and on one line."""
    writer = RingWriter(agent.path, process=b'{"service":"%b"}' % service)
    writer.put(span(1))
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1)]
    (found,) = agent.receiver.services()
    assert found.name.isprintable()
    assert msgspec.json.decode(msgspec.json.encode(found))["name"] == found.name
    writer.die()


def test_ring_that_cannot_be_removed_is_named_and_not_read_again(
    agent: RingAgent,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A directory that became read-only does not stop the agent, and nothing comes twice."""
    dead, living = (RingWriter(agent.path, name) for name in ("1-a.ring", "2-b.ring"))
    dead.put(span(1))
    dead.die()

    def refuse(*arguments: object, **more: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", refuse)
        for _ in range(3):
            agent.tick(SCAN_S)
    living.put(span(2))
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1), span(2)]
    problem = "its process is gone, and it cannot be removed: Read-only file system"
    assert warnings(caplog) == [f"{dead.path} is not read: {problem}"]
    living.die()


def test_directory_that_others_may_write_to_later_is_noticed(
    agent: RingAgent,
    writer: RingWriter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing new in it is believed, what is known is read on, and it is said; until it is put right."""
    agent.tick(SCAN_S)
    agent.path.chmod(0o777)
    new = RingWriter(agent.path, "2-b.ring")
    new.put(span(2))
    writer.put(span(1))
    for _ in range(3):
        spans = agent.tick(FLUSH_INTERVAL_S)
    assert spans == [span(1)]
    (problem,) = agent.receiver.problems()
    assert "has mode 0777, so others may write there; make it 0700" in problem
    assert warnings(caplog) == [problem]
    agent.path.chmod(0o700)
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1), span(2)]
    assert agent.receiver.problems() == []
    new.die()


def test_limits_of_open_files_are_this_process() -> None:
    """The limit of open files is the process's own soft limit; unlimited is a number without bound."""
    assert rings._descriptors() == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
