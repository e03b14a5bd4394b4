"""The critical path: where the time of a trace went, through topics."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given

from kaspan.insight.critical_path import critical_path, shares
from kaspan.wire.span import Span
from support.flow_spans import START_US, any_traces, process, send, span, tree


def path_of(*spans: Span) -> list[tuple[int, int, str, str]]:
    """Return start and end after START_US, label and id of the span, in short."""
    return [
        (segment.start_us - START_US, segment.end_us - START_US, segment.label, (segment.span_id or "-")[-1])
        for segment in critical_path(tree(*spans))
    ]


def test_time_goes_through_a_topic() -> None:
    """A send and its record are producing, delivery, waiting and work."""
    assert path_of(send(1, None, 0, 2, 10), process(2, 1, 30, 5)) == [
        (0, 2, "producing", "1"),
        (2, 10, "delivery", "1"),
        (10, 30, "waiting", "1"),
        (30, 35, "work", "2"),
    ]


def test_path_goes_on_through_the_next_topic() -> None:
    """A record that makes the next send is work up to that send; what it does after it is beside the path."""
    spans = (
        send(1, None, 0, 2, 10),
        process(2, 1, 10, 100),
        send(3, 2, 40, 1, 5),
        process(4, 3, 120, 30),
    )

    assert path_of(*spans) == [
        (0, 2, "producing", "1"),
        (2, 10, "delivery", "1"),
        (10, 40, "work", "2"),
        (40, 41, "producing", "3"),
        (41, 45, "delivery", "3"),
        (45, 120, "waiting", "3"),
        (120, 150, "work", "4"),
    ]


def test_of_a_fan_out_the_branch_that_ends_last_is_critical() -> None:
    """Of two records from one span, only the one that is done last is on the path."""
    spans = (
        process(1, None, 0, 50),
        send(2, 1, 5, 1, 2),
        send(3, 1, 10, 1, 2),
        process(4, 2, 20, 90),
        process(5, 3, 20, 10),
    )

    assert [segment[3] for segment in path_of(*spans)] == ["1", "2", "2", "2", "4"]


def test_send_blocks_its_caller_until_it_is_enqueued() -> None:
    """A slow acknowledgement is not on the path of a caller that does not wait for it; a slow send() is."""
    assert path_of(process(1, None, 0, 50), send(2, 1, 10, 20, 35)) == [
        (0, 10, "work", "1"),
        (10, 30, "producing", "2"),
        (30, 50, "work", "1"),
    ]


def test_called_function_is_on_the_path_while_it_runs() -> None:
    """The time of a call inside a record is the callee's, the rest the caller's own."""
    assert path_of(process(1, None, 0, 50), span(2, 1, "CLIENT", 10, 20), span(3, 2, "SERVER", 12, 8)) == [
        (0, 10, "work", "1"),
        (10, 12, "work", "2"),
        (12, 20, "work", "3"),
        (20, 30, "work", "2"),
        (30, 50, "work", "1"),
    ]


def test_time_between_spans_is_a_gap() -> None:
    """What begins after its parent has ended leaves a gap that no span explains."""
    assert path_of(span(1, None, None, 0, 10), span(2, 1, None, 30, 5)) == [
        (0, 10, "work", "1"),
        (10, 30, "gap", "1"),
        (30, 35, "work", "2"),
    ]


def test_send_that_ends_last_is_producing_and_delivery() -> None:
    """Where the acknowledgement is the last event, the path ends with the send's own parts."""
    assert path_of(process(1, None, 0, 20), send(2, 1, 10, 2, 90)) == [
        (0, 10, "work", "1"),
        (10, 12, "producing", "2"),
        (12, 100, "delivery", "2"),
    ]


def test_trace_without_times_has_no_path() -> None:
    """Spans without a timestamp take no time."""
    timeless = span(1, None, None, 0, None)
    timeless.timestamp = None

    assert critical_path(tree(timeless)) == []


@given(any_traces())
def test_every_microsecond_of_any_trace_has_one_label(spans: list[Span]) -> None:
    """Of any trace the segments follow each other, from the first timestamp to the last end, and add up."""
    root = tree(*spans)
    timed = [node.span for node, _ in root.traverse() if node.span is not None and node.span.timestamp]
    path = critical_path(root)

    assert all(one.end_us == other.start_us for one, other in pairwise(path))
    assert all(segment.start_us < segment.end_us for segment in path)
    starts, ends = [
        [one.timestamp or 0 for one in timed],
        [(one.timestamp or 0) + (one.duration or 0) for one in timed],
    ]
    total_us = max(ends) - min(starts) if timed else 0
    assert sum(segment.end_us - segment.start_us for segment in path) == total_us
    assert sum(time_us for _, _, time_us in shares(path)) == total_us
    if path:
        assert (path[0].start_us, path[-1].end_us) == (min(starts), max(ends))


def test_shares_say_where_the_time_went() -> None:
    """Shares add up by label and topic or service, the longest first."""
    path = critical_path(tree(send(1, None, 0, 2, 10), process(2, 1, 30, 5, service="shipping")))

    assert shares(path) == [
        ("waiting", "orders", 20),
        ("delivery", "orders", 8),
        ("work", "shipping", 5),
        ("producing", "orders", 2),
    ]


def test_ten_thousand_spans_are_one_path() -> None:
    """A chain of 5,000 records, and 5,000 records of one span, are walked without recursion."""
    chain = [process(1, None, 0, 10)]
    chain += [process(number, number - 1, number * 10, 10) for number in range(2, 5001)]
    fan_out = [process(number, 1, number, 1) for number in range(5001, 10_001)]

    path = critical_path(tree(*chain, *fan_out))
    assert path[-1].end_us - path[0].start_us == 50_010
