"""Records that poll() returned and that the application took elsewhere: how many is in the ring's header."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kaspan.interceptor.kafka import record_scope
from support.implementations import python
from support.ring_reader import read_header, rings

NOW_NS = 1 << 60


@pytest.fixture
def counted(configured: Any) -> Any:
    """Give an application with a ring of its own."""
    return configured(exclude_topics=["internal"])


def counts(application: Any) -> tuple[int, int]:
    """Return how many records poll() has returned, and how many of them have a span of no length."""
    (path,) = rings(application.ring_dir)
    header = read_header(path)
    return header.polled_records, header.without_length


def poll(application: Any, records: int) -> Any:
    consumer = application.consumer(application.records(records))
    (polled,) = consumer.poll().values()
    return polled


@pytest.fixture
def standing_clock(implementation: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the loops' work take no time."""
    if implementation is python:
        monkeypatch.setattr(record_scope, "performance_clock_ns", lambda: NOW_NS)
        yield
    else:
        implementation.set_clocks(time.time_ns, lambda: NOW_NS)
        yield
        implementation.set_clocks(time.time_ns, time.perf_counter_ns)


@pytest.mark.usefixtures("standing_clock")
def test_records_of_a_copied_list_have_no_length(counted: Any) -> None:
    """A wrapper that rebuilds the lists loops over them for no time."""
    assert len(list(poll(counted, 3))) == 3
    counted.take()

    assert counts(counted) == (3, 3)


def test_records_taken_by_index_or_left_have_no_length(counted: Any) -> None:
    """One was taken by its index, two were not looked at, and one was worked on in a loop."""
    polled = poll(counted, 3)
    assert polled[0].offset == 0
    polled.clear()
    for _ in poll(counted, 1):
        threading.Event().wait(0.001)

    assert counts(counted) == (4, 3)


def test_records_in_a_loop_are_not_counted(counted: Any) -> None:
    """Where each record is worked on in a loop, nothing is to be said."""
    for _ in poll(counted, 2):
        threading.Event().wait(0.001)

    assert counts(counted) == (0, 0)


def test_records_of_excluded_topics_are_not_counted(counted: Any) -> None:
    """They have no spans at all."""
    consumer = counted.consumer([counted.record(topic="internal")], [counted.record()])
    consumer.poll()
    consumer.poll()
    consumer.close()

    assert counts(counted) == (1, 1)
