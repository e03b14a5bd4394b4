"""Hops: the way of one record, with its times."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kaspan.insight.hops import hops
from kaspan.wire.span import Span
from support.flow_spans import START_US, any_traces, process, send, span, tree

TIMES = st.integers(0, 1000)


@given(producing_us=TIMES, delivery_us=TIMES, waiting_us=TIMES, processing_us=st.integers(1, 1000))
def test_hop_has_the_times_that_were_put_in(
    producing_us: int, delivery_us: int, waiting_us: int, processing_us: int
) -> None:
    """Producing, delivery, waiting and processing are what the flow took, to the microsecond."""
    acknowledged_us = producing_us + delivery_us
    sent = send(1, None, 5, producing_us, acknowledged_us, service="orders")
    received = process(2, 1, 5 + acknowledged_us + waiting_us, processing_us, service="shipping")
    (hop,) = hops(tree(sent, received))

    times = (hop.producing_us, hop.delivery_us, hop.waiting_us, hop.processing_us)
    assert times == (producing_us, delivery_us, waiting_us, processing_us)
    assert (hop.topic, hop.partition, hop.offset) == ("orders", 2, 101)
    assert (hop.producer, hop.consumer, hop.group) == ("orders", "shipping", "shipping")
    assert (hop.sent_us, hop.received_us) == (START_US + 5, received.timestamp)


def test_record_that_is_read_before_its_acknowledgement_does_not_wait() -> None:
    """A consumer can be faster than the acknowledgement: then delivery ends when the record is received."""
    (hop,) = hops(tree(send(1, None, 0, 10, 100), process(2, 1, 40, 5)))

    assert (hop.producing_us, hop.delivery_us, hop.waiting_us) == (10, 30, 0)
    assert not hop.is_skewed


def test_each_reader_of_a_record_has_its_hop() -> None:
    """A record that two groups read has made two hops."""
    found = hops(tree(send(1, None, 0, 1, 2), process(2, 1, 3, 5), process(3, 1, 9, 5)))

    assert [hop.waiting_us for hop in found] == [1, 7]


def test_record_that_nobody_has_read_has_a_hop_without_an_end() -> None:
    """A send without a reader is a hop with producing and delivery only."""
    (hop,) = hops(tree(send(1, None, 0, 1, 3)))

    assert (hop.producing_us, hop.delivery_us, hop.waiting_us, hop.consumer) == (1, 2, None, None)


def test_record_whose_send_is_missing_waited_since_its_timestamp() -> None:
    """Without the send's span, waiting is the consumer's queue time, and the producer is not known."""
    (hop,) = hops(tree(process(2, 7, 50, 5, tags={"kafka.queue_time_ms": "12"})))

    assert (hop.producer, hop.producing_us, hop.waiting_us) == (None, None, 12_000)


def test_consumer_whose_clock_is_behind_is_marked() -> None:
    """A record that seems to be received before it was sent has no times before it, and says so."""
    (hop,) = hops(tree(send(1, None, 100, 1, 3), process(2, 1, 40, 5)))

    assert (hop.producing_us, hop.delivery_us, hop.waiting_us, hop.is_skewed) == (0, 0, 0, True)


def test_numbers_that_are_none_are_left_out() -> None:
    """What other tracers write into the tags of partition, offset and queue time may be any text."""
    for text in ("", "-1", "x", "9" * 400, "٣"):
        odd = span(
            1, None, "CONSUMER", 0, 1, tags={"messaging.kafka.offset": text, "kafka.queue_time_ms": text}
        )
        (hop,) = hops(tree(odd))
        assert (hop.offset, hop.waiting_us) == (None, None)


@given(any_traces())
def test_parts_add_up_to_the_time_between_send_and_receipt(spans: list[Span]) -> None:
    """Of any trace, producing, delivery and waiting of a whole hop add up; every record has one hop."""
    root = tree(*spans)
    found = hops(root)

    consumers = [
        node for node, _ in root.traverse() if node.span is not None and node.span.kind == "CONSUMER"
    ]
    assert len([hop for hop in found if hop.process_id is not None]) == len(consumers)
    for hop in found:
        if hop.sent_us and hop.received_us:
            parts = (hop.producing_us or 0) + (hop.delivery_us or 0) + (hop.waiting_us or 0)
            assert parts == max(0, hop.received_us - hop.sent_us)
