"""kaspan.agent.receivers.ring_receiver: out of the rings and into the spool."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.agent.receivers.ring_file import PATIENCE_S, RingFile
from kaspan.agent.receivers.ring_receiver import SCAN_S
from kaspan.agent.receivers.rings import DROP_WARNING_S
from kaspan.agent.receivers.service_stats import MAX_SERVICES, OTHER, Services
from kaspan.agent.status import ServiceStatus
from kaspan.wire import ring as layout
from support.ring_agent import BATCH_BYTES, FLUSH_INTERVAL_S, RingAgent, warnings
from support.ring_writer import DATA_BYTES, RingWriter, frame, span


def test_spans_are_taken_after_the_flush_interval(agent: RingAgent, writer: RingWriter) -> None:
    """Spans wait in the ring for company, as long as the settings allow and no longer."""
    writer.put(span(1))
    assert agent.tick(FLUSH_INTERVAL_S * 0.9) == []
    assert agent.tick(FLUSH_INTERVAL_S * 0.1) == [span(1)]
    assert writer.read_pos == writer.write_pos


def test_ring_that_is_a_quarter_full_is_taken_at_once(agent: RingAgent, writer: RingWriter) -> None:
    """A busy application's ring is emptied long before it is full."""
    while writer.write_pos < DATA_BYTES // 4 - 256:
        writer.put(span(1))
    assert agent.tick(0.05) == []
    writer.put(span(1, 256))
    assert len(agent.tick(0.05)) > 50


def test_ring_that_appears_is_found_at_the_next_look(agent: RingAgent) -> None:
    """A new ring may fill in less time than lies between two complete scans."""
    agent.tick(SCAN_S)
    writer = RingWriter(agent.path)
    while writer.put(span(1)):
        pass
    assert len(agent.tick(0.01)) > 100


def test_rings_are_taken_in_one_transaction_and_rows_are_shared(agent: RingAgent) -> None:
    """A flush costs one commit however many applications there are, and its rows are full."""
    writers = [RingWriter(agent.path, f"{number}.ring") for number in range(10)]
    for number, writer in enumerate(writers):
        writer.put(span(number))
    assert sorted(agent.tick(FLUSH_INTERVAL_S)) == [span(number) for number in range(10)]
    assert agent.spool.puts == 1
    assert [batch.spans for batch in agent.spool.batches] == [10]


def test_rows_are_no_larger_than_a_batch(agent: RingAgent, writer: RingWriter) -> None:
    """A row is a message at most, so that no message need be cut."""
    while writer.put(span(1)):
        pass
    agent.tick(FLUSH_INTERVAL_S)
    assert max(len(batch.body) for batch in agent.spool.batches) <= BATCH_BYTES
    assert (
        sum(batch.spans for batch in agent.spool.batches)
        == agent.receiver.accepted_spans
        == len(agent.spool.spans)
    )


def test_nothing_is_taken_twice_after_a_kill_between_spool_and_ring(
    agent: RingAgent, writer: RingWriter
) -> None:
    """The spool's position counts when the ring does not know it yet."""
    writer.put(span(1))
    agent.tick(FLUSH_INTERVAL_S)
    writer.set_header(layout.READ_POS, 0)  # as if the agent had been killed before it wrote this
    writer.put(span(2))
    agent.directory.close()
    agent.restart()
    assert agent.tick() == [span(1), span(2)]
    assert writer.read_pos == writer.write_pos


def test_rings_are_left_unread_while_the_spool_is_full(
    agent: RingAgent, writer: RingWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """What the spool does not take stays in the ring, is said once, and is taken when there is room again."""
    writer.put(span(1))
    agent.spool.full = True
    for _ in range(3):
        agent.tick(FLUSH_INTERVAL_S)
    assert writer.read_pos == 0
    agent.spool.full = False
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1)]
    assert warnings(caplog) == ["rings are left unread: the spool is full"]


@pytest.mark.parametrize("room_bytes", [200, 3000, 20_000])
def test_rings_go_into_a_small_spool_in_parts(agent: RingAgent, room_bytes: int) -> None:
    """Rings that hold more than the spool ever has room for are taken in as many transactions as it takes."""
    writers = [RingWriter(agent.path, f"{number}.ring") for number in range(3)]
    written = [number for number in range(300) if writers[number % 3].put(span(number))]
    agent.spool.room_bytes = room_bytes
    for _ in range(800):
        agent.tick(FLUSH_INTERVAL_S)
    assert sorted(agent.spool.spans) == sorted(map(span, written))


@pytest.mark.parametrize("payload", [span(9) + b"]", b"[" + span(9) + b"]", b"{", b"x", span(9)[:-2], b"[]"])
def test_payload_that_is_no_object_is_dropped_and_counted(
    agent: RingAgent, writer: RingWriter, caplog: pytest.LogCaptureFixture, payload: bytes
) -> None:
    """What would end the list of spans, and hide those of others behind it, goes no further than its ring."""
    for written in (span(1), payload, span(2)):
        writer.put(written)
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1), span(2)]
    assert agent.receiver.lost_bytes == len(payload)
    assert agent.receiver.accepted_spans == 2
    (warning,) = warnings(caplog)
    assert warning.endswith("of orders: 1 spans are not JSON objects and are dropped")


def test_ring_of_a_dead_owner_is_taken_then_removed(agent: RingAgent, writer: RingWriter) -> None:
    """What a killed application had finished arrives, and nothing of it is left behind."""
    writer.put(span(1))
    writer.die()
    assert agent.tick(SCAN_S) == [span(1)]
    assert not writer.path.exists()
    assert agent.spool.saved == {}


def test_ring_of_a_dead_owner_stays_while_the_spool_is_full(agent: RingAgent, writer: RingWriter) -> None:
    """A ring is only removed when its spans are safe."""
    writer.put(span(1))
    writer.die()
    agent.spool.full = True
    agent.tick(SCAN_S)
    assert writer.path.exists()
    agent.spool.full = False
    assert agent.tick(SCAN_S) == [span(1)]
    assert not writer.path.exists()


def test_ring_whose_file_was_removed_is_read_while_its_owner_lives(
    agent: RingAgent, writer: RingWriter
) -> None:
    """A cleaner of temporary files does not stop the spans of an application that runs."""
    agent.tick()
    writer.path.unlink()
    writer.put(span(1))
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1)]


def test_last_tick_takes_everything(agent: RingAgent, writer: RingWriter) -> None:
    """At the agent's end no span is left to wait for company."""
    writer.put(span(1))
    agent.receiver.tick(last=True)
    assert agent.spool.spans == [span(1)]


def test_file_that_is_no_ring_is_named_once_and_left_alone(
    agent: RingAgent, writer: RingWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """One warning with file and rule for each, no harm to the other rings, and the file stays."""
    (agent.path / "garbage.ring").write_bytes(b"garbage" * 1000)
    (agent.path / "short.ring").write_bytes(b"")
    os.mkfifo(agent.path / "pipe.ring")
    writer.put(span(1))
    for _ in range(3):
        spans = agent.tick(FLUSH_INTERVAL_S)
    assert spans == [span(1)]
    assert warnings(caplog) == [
        f"{agent.path}/garbage.ring is not read: starts with b'garbageg'; a version 1 ring starts with "
        "b'KASPAN\\x00\\x01'",
        f"{agent.path}/pipe.ring is not read: is not a regular file",
        f"{agent.path}/short.ring is not read: 0 bytes long; a ring's header alone has 4096",
    ]
    assert (agent.path / "garbage.ring").read_bytes() == b"garbage" * 1000


def test_ring_that_is_truncated_is_named_once_and_others_are_read(
    agent: RingAgent, writer: RingWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """A ring that somebody cuts off does not stop the agent."""
    other = RingWriter(agent.path, "2-b.ring")
    agent.tick()
    writer.put(span(1))
    other.put(span(2))
    os.truncate(writer.path, layout.HEADER_BYTES)
    for _ in range(3):
        spans = agent.tick(FLUSH_INTERVAL_S)
    assert spans == [span(2)]
    assert warnings(caplog) == [f"{writer.path} is not read: was truncated"]


def test_ring_that_is_truncated_between_two_reads_gives_what_is_left(
    agent: RingAgent, writer: RingWriter
) -> None:
    """What stands before the end is taken, the rest counted as lost, and nothing is written any more."""
    for number in range(70):
        assert writer.put(span(number))
    agent.tick()
    written = writer.write_pos
    os.truncate(writer.path, layout.HEADER_BYTES + written * 2 // 3)
    taken = agent.tick(FLUSH_INTERVAL_S)
    assert taken == [span(number) for number in range(len(taken))]
    assert 35 < len(taken) < 60
    assert writer.read_pos == 0
    assert agent.receiver.accepted_spans == len(taken)
    assert agent.receiver.rejected_rings == 1
    assert 0 < agent.receiver.lost_bytes < written // 2


def test_spans_are_counted_by_the_service_that_wrote_them(agent: RingAgent) -> None:
    """Rings that are gone still count; how full they are is of those that are there."""
    writers = [
        RingWriter(agent.path, f"{number}-a.ring", process=b'{"service":"%b"}' % service)
        for number, service in enumerate((b"orders", b"orders", b"mailer"))
    ]
    for writer in writers:
        writer.put(span(1))
    agent.tick(FLUSH_INTERVAL_S)
    writers[0].die()
    while writers[1].put(span(2)):
        pass
    agent.tick(SCAN_S)
    orders = named(agent, "orders")
    mailer = named(agent, "mailer")
    assert (mailer.accepted_spans, mailer.rings, mailer.fill) == (1, 1, 0.0)
    assert (orders.rings, orders.dropped_spans) == (1, 1)
    assert orders.accepted_spans > 2
    assert agent.receiver.accepted_spans == orders.accepted_spans + 1
    for writer in writers[1:]:
        writer.die()


def named(agent: RingAgent, service: str) -> ServiceStatus:
    (found,) = [observed for observed in agent.receiver.services() if observed.name == service]
    return found


def test_drops_of_a_ring_count_once_and_those_before_the_agent_too(agent: RingAgent) -> None:
    """The writer's own count is used: it includes spans dropped before the agent started."""
    writer = RingWriter(agent.path, process=b'{"service":"orders"}')
    for offset, count in ((layout.DROPPED_SPANS, 7), (layout.SUPPRESSED_ERRORS, 2)):
        writer.set_header(offset, count)
    agent.tick(SCAN_S)
    agent.tick(SCAN_S)
    assert (named(agent, "orders").dropped_spans, named(agent, "orders").suppressed_errors) == (7, 2)
    writer.set_header(layout.DROPPED_SPANS, 9)
    agent.tick(SCAN_S)
    assert named(agent, "orders").dropped_spans == 9
    writer.die()


def test_polled_records_of_a_ring_count_once(agent: RingAgent) -> None:
    """How many records poll() returned, and how many have a span of no length, is followed as drops are."""
    writer = RingWriter(agent.path, process=b'{"service":"orders"}')
    for records, without_length in ((8, 5), (10, 6)):
        writer.set_header(layout.POLLED_RECORDS, records)
        writer.set_header(layout.WITHOUT_LENGTH, without_length)
        agent.tick(SCAN_S)
        agent.tick(SCAN_S)
        orders = named(agent, "orders")
        assert (orders.polled_records, orders.records_without_length) == (records, without_length)
    writer.die()


def test_spans_left_in_a_ring_by_a_full_spool_are_not_counted(agent: RingAgent, writer: RingWriter) -> None:
    """A span counts as taken when it is safe, and once."""
    writer.put(span(1))
    agent.spool.full = True
    agent.tick(FLUSH_INTERVAL_S)
    assert agent.receiver.accepted_spans == 0
    agent.spool.full = False
    agent.tick(FLUSH_INTERVAL_S)
    assert agent.receiver.accepted_spans == 1


def test_services_are_bounded_in_number(agent: RingAgent) -> None:
    """Names come from files: after so many services the others count together."""
    services = Services()
    writer = RingWriter(agent.path)
    descriptor = os.open(writer.path, os.O_RDWR)
    for number in range(MAX_SERVICES + 5):
        ring = RingFile("a.ring", os.dup(descriptor), layout.HEADER_BYTES + DATA_BYTES)
        ring.service = f"service-{number}"
        counters = services.counters_of(ring)
        counters.read(1)
        counters.stored()
        ring.close()
    os.close(descriptor)
    observed = services.observe([])
    assert len(observed) == MAX_SERVICES + 1
    assert next(service.accepted_spans for service in observed if service.name == OTHER) == 5
    writer.die()


def test_damaged_frame_costs_only_what_stands_after_it(
    agent: RingAgent, writer: RingWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans before damage are kept, lost bytes are said with file and service, later spans come."""
    writer.put(span(1))
    writer.put(span(2), crc=1)
    agent.tick(FLUSH_INTERVAL_S)
    agent.tick(PATIENCE_S)
    writer.put(span(3))
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1), span(3)]
    assert agent.receiver.lost_bytes == len(frame(span(2)))
    (said,) = warnings(caplog)
    assert said.startswith(f"ring {writer.path} of orders is damaged: a frame of {len(span(2))} bytes")


def test_spans_that_a_ring_dropped_are_said_at_once_and_then_now_and_then(
    agent: RingAgent, writer: RingWriter, caplog: pytest.LogCaptureFixture
) -> None:
    """No drop is silent, and a ring that keeps dropping does not fill the log."""
    writer.set_header(layout.DROPPED_SPANS, 5)
    agent.tick()
    writer.set_header(layout.DROPPED_SPANS, 7)
    agent.tick(DROP_WARNING_S / 2)
    assert len(warnings(caplog)) == 1
    agent.tick(DROP_WARNING_S / 2)
    agent.tick(DROP_WARNING_S)
    assert [
        f"of orders was full: {count} spans dropped" in said
        for count, said in zip((5, 7), warnings(caplog), strict=True)
    ] == [True, True]


def test_directory_that_turns_bad_is_said_once(agent: RingAgent, caplog: pytest.LogCaptureFixture) -> None:
    """A directory in a wrong state is asked about again, and its end is noticed."""
    agent.directory.close()
    agent.path.rmdir()
    agent.path.symlink_to("/")
    for _ in range(3):
        agent.tick(SCAN_S)
    assert len(warnings(caplog)) == 1
    assert "is a symlink" in warnings(caplog)[0]
    agent.path.unlink()
    writer = RingWriter(make(agent.path))
    writer.put(span(1))
    assert agent.tick(FLUSH_INTERVAL_S) == [span(1)]


def make(path: Path) -> Path:
    path.mkdir(mode=0o700)
    return path


def test_positions_of_rings_that_vanished_meanwhile_are_deleted_at_the_start(agent: RingAgent) -> None:
    """A restart of the machine empties the ring directory, not the spool."""
    agent.spool.saved = {str(agent.path / "gone.ring"): 8}
    agent.restart()
    assert agent.spool.saved == {}


mutations = st.lists(
    st.tuples(st.integers(0, layout.HEADER_BYTES + 2000), st.binary(min_size=1, max_size=16)), max_size=6
)


@settings(max_examples=300)
@given(mutations, st.integers(0, 3), st.one_of(st.none(), st.integers(0, layout.HEADER_BYTES + DATA_BYTES)))
def test_no_bytes_in_a_ring_stop_the_agent(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, bytes]],
    dead: int,
    truncated_to: int | None,
) -> None:
    """With any bytes in a ring file: no crash, no endless loop, and other rings' spans come."""
    agent = RingAgent(make(tmp_path_factory.mktemp("fuzz") / "rings"))
    bad, good = RingWriter(agent.path, "1-bad.ring"), RingWriter(agent.path, "2-good.ring")
    for number in range(10):
        bad.put(span(number))
    good.put(span(99))
    with open(bad.path, "r+b") as file:
        for position, raw in changes:
            file.seek(position)
            file.write(raw)
        if truncated_to is not None:
            file.truncate(truncated_to)
    if dead:
        bad.die()
    for _ in range(4):
        spans = agent.tick(FLUSH_INTERVAL_S)
    assert spans.count(span(99)) == 1
    good.die()
    if not dead:
        bad.die()
    for _ in range(4):
        agent.tick(FLUSH_INTERVAL_S)
    assert not good.path.exists()
    agent.directory.close()


@settings(max_examples=100)
@given(st.binary(max_size=layout.HEADER_BYTES + 200))
def test_no_file_named_like_a_ring_stops_the_agent(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """Any bytes under a ring's name are refused and left as they are."""
    agent = RingAgent(make(tmp_path_factory.mktemp("fuzz") / "rings"))
    path = agent.path / "1-a.ring"
    path.write_bytes(content)
    for _ in range(3):
        assert agent.tick(FLUSH_INTERVAL_S) == []
    assert path.read_bytes() == content
    agent.directory.close()
