"""kaspan.agent.senders.stats and kaspan.agent.histogram: what a sender's numbers say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.histogram import Histogram
from kaspan.agent.senders.stats import MAX_FAILURE_KINDS, OTHER, SenderStats


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("HTTP 503 Service Unavailable: down", "503"),
        ("HTTP 301: redirected to http://elsewhere; set the url", "301"),
        ("ConnectionRefusedError: [Errno 111] Connection refused", "ConnectionRefusedError"),
        ("TimeoutError", "TimeoutError"),
        ("not a list of Zipkin v2 spans: Expected `str`", OTHER),
        ("", OTHER),
    ],
)
def test_failures_are_counted_by_status_or_error(reason: str, kind: str) -> None:
    """What a server or a system says is text without end; what it is counted by is a short name."""
    stats = SenderStats()
    stats.failed(reason, 0.0)
    stats.refused(reason, 0.0)
    assert dict(stats.failures) == {kind: 2}
    assert stats.last_error == reason


@given(st.lists(st.text(), max_size=200))
def test_kinds_of_failures_are_bounded(reasons: list[str]) -> None:
    """Whatever targets say, there is an end to the names, and each failure is counted."""
    stats = SenderStats()
    for number, reason in enumerate(reasons):
        stats.failed(f"Error{number}: {reason}", 0.0)
        stats.failed(reason, 0.0)
    assert len(stats.failures) <= MAX_FAILURE_KINDS + 1
    assert stats.failures.total() == 2 * len(reasons)


def test_failing_lasts_from_the_first_failure_until_something_is_taken() -> None:
    """An operator wants to know for how long a target has taken nothing, not when it was last tried."""
    clock = Clock()
    stats = SenderStats(clock)
    stats.failed("TimeoutError", 100.0)
    clock.now_s = 200.0
    stats.failed("TimeoutError", 200.0)
    stats.refused("HTTP 400", 200.0)
    assert (stats.failing_since_s, stats.last_success_at_s) == (100.0, 0.0)
    stats.delivered(200.0)
    assert stats.failing_since_s is None


def test_duration_is_of_attempts_that_were_answered() -> None:
    """A target that refuses connections at once must not look like a fast one."""
    clock = Clock()
    stats = SenderStats(clock)
    stats.failed("ConnectionRefusedError", 100.0)
    clock.now_s = 100.3
    stats.delivered(100.0)
    assert sum(stats.send_s.counts) == 1
    assert stats.send_s.sum == pytest.approx(0.3)


def test_dead_letters_were_not_sent() -> None:
    """Of a message with a dead letter and one that found no room, the others were sent."""
    stats = SenderStats()
    stats.dead_lettered(kept=1, dropped=1)
    stats.passed(8, 10, 4000)
    stats.passed(5, 5, 2000)
    assert (stats.sent_spans, stats.dead_spans, stats.dropped_spans) == (13, 1, 1)
    assert (sum(stats.message_spans.counts), stats.message_bytes.sum) == (2, 6000)


@given(st.lists(st.floats(0, 100)))
def test_histogram_counts_each_value_in_the_first_bound_that_holds_it(values: list[float]) -> None:
    """A bound is the largest value that it counts; what is above all has a count of its own."""
    histogram = Histogram.of((1.0, 10.0))
    for value in values:
        histogram.add(value)
    assert histogram.counts == [
        sum(value <= 1 for value in values),
        sum(1 < value <= 10 for value in values),
        sum(value > 10 for value in values),
    ]
    assert histogram.sum == pytest.approx(sum(values))
