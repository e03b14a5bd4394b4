"""What fails of kaspan's own: one warning, then debug lines, counted, and the application never sees it."""

from __future__ import annotations

import gc
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from kaspan.interceptor import failures
from kaspan.interceptor.tracing import ids
from support.ring_reader import current, read_header, rings


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Any:
    """Give the log of a process in which nothing has failed yet."""
    # Tracebacks in an earlier test's log held its records, whose spans come when Python collects them: now,
    # and not while this test has something broken in the whole process.
    gc.collect()
    monkeypatch.setattr(failures, "_failures", type(failures._failures)())
    caplog.set_level(logging.DEBUG, logger="kaspan")
    return caplog


def test_first_failure_of_a_kind_is_a_warning_and_the_next_are_debug(fresh: Any) -> None:
    """A failure that repeats for every record does not fill the log."""
    for number in range(3):
        failures.record_failure("counting", ValueError(number))
    failures.record_failure("adding", KeyError("x"))

    levels = [(record.levelname, record.getMessage()) for record in fresh.records]
    assert levels == [
        ("WARNING", "kaspan: counting failed: ValueError: 0"),
        ("DEBUG", "kaspan: counting failed: ValueError: 1"),
        ("DEBUG", "kaspan: counting failed: ValueError: 2"),
        ("WARNING", "kaspan: adding failed: KeyError: 'x'"),
    ]


def test_failures_are_told_at_once_and_from_the_start(fresh: Any) -> None:
    """A listener that registers late is told how many failures there were, and then of each new one."""
    told: list[int] = []
    failures.record_failure("counting", ValueError())
    failures.tell_suppressed(told.append)
    failures.record_failure("counting", ValueError())
    failures.tell_suppressed(None)
    failures.record_failure("counting", ValueError())

    assert told == [1, 2]


def broken(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("broken")


PLACES = {
    "making a span": lambda tracing: (tracing, "child_of", broken),
    "asking for the current span": lambda tracing: (tracing, "current", broken),
    "making an id": lambda _: (ids, "os", SimpleNamespace(urandom=broken)),
    "reporting": lambda tracing: (tracing.reporter, "report", broken),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_whatever_breaks_in_kaspan_the_application_does_what_it_does(
    configured: Any, fresh: Any, monkeypatch: pytest.MonkeyPatch, place: Any
) -> None:
    """A fault anywhere in kaspan leaves sends and records as they are without kaspan, and is logged."""
    application = configured()
    monkeypatch.setattr(*place(application.tracing))
    ids.spare_ids.clear()
    producer = application.producer()
    headers = [("tenant", b"7")]
    for _ in range(3):
        producer.send("orders", b"value", headers=headers)
        producer.last.acknowledge()
    delivered = [record.offset for record in application.consumer(application.records(3))]
    consumer = application.consumer(application.records(3))
    taken = next(consumer).offset
    consumer.close()
    consumer = application.consumer(application.records(3))
    polled = [record.offset for records in consumer.poll().values() for record in records]
    consumer.close()

    assert [appended.headers[0] for appended in producer.appended] == headers * 3
    assert headers == [("tenant", b"7")]
    assert (delivered, taken, polled) == ([0, 1, 2], 0, [0, 1, 2])
    assert current() is None
    assert any(record.levelname == "WARNING" and "broken" in record.getMessage() for record in fresh.records)


def test_failures_stand_in_the_rings_header(
    configured: Any, fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent can report how often something failed that the application never saw."""
    application = configured()
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()
    monkeypatch.setattr(ids, "os", SimpleNamespace(urandom=broken))
    ids.spare_ids.clear()
    for _ in range(5):
        producer.send("orders", b"value")

    gc.collect()  # as Python may do at any line: no other test's records are left to fail
    (ring,) = rings(application.ring_dir)
    assert read_header(ring).suppressed_errors == 5


def test_ring_that_cannot_be_made_is_not_tried_for_every_span(configured: Any, fresh: Any) -> None:
    """A missing ring costs one try and one warning a minute, not one for each span."""
    application = configured()
    application.ring_dir.touch()
    producer = application.producer()
    for _ in range(50):
        producer.send("orders", b"value")
        producer.last.acknowledge()

    assert len(producer.appended) == 50
    assert [record.levelname for record in fresh.records] == ["WARNING"]
    assert str(application.ring_dir) in fresh.records[0].getMessage()
