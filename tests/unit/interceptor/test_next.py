"""How long a record that `next(consumer)` returned is in work."""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from in_python import in_python
from kaspan.interceptor import consumer as consumer_tracing
from kaspan.interceptor import cursor, held
from spans import current, offsets


@pytest.fixture(params=["compiled", "Python"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test also as where nothing is compiled."""
    if request.param == "Python":
        monkeypatch.setattr(consumer_tracing, "Cursor", in_python(cursor).Cursor)
        monkeypatch.setattr(consumer_tracing, "held", in_python(held).held)


def outside_of_loops(work: Callable[[], Any]) -> Any:
    """Call it in a thread of its own: the tests themselves are called in a loop."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join()
    return done[0]


def read(consumer: Any) -> Any:
    record = next(consumer)
    return record.offset


def receive(consumer: Any) -> Any:
    return next(consumer)


def read_in_one_line(consumer: Any) -> Any:
    return json.loads(b"%d" % next(consumer).offset)


@pytest.mark.parametrize("reads", [read, read_in_one_line])
def test_record_that_is_let_go_is_no_parent_of_what_comes_later(application: Any, reads: Any) -> None:
    """One next() and never again: the span ends with the function that asked, and what is sent later is a
    trace of its own.
    """
    consumer = application.consumer(application.records(2))
    producer = application.producer()

    def work() -> Any:
        assert reads(consumer) == 0
        seen = current()
        producer.send("shipments", b"value")
        producer.last.acknowledge()
        return seen, application.take()

    seen, spans = outside_of_loops(work)

    assert seen is None
    processed, sent = spans
    assert offsets([processed]) == [0]
    assert sent.parent_id is None
    assert sent.trace_id != processed.trace_id


def test_record_is_in_work_while_its_function_is(application: Any) -> None:
    """What is done with a record's value, after the record itself, is done in its scope."""
    consumer = application.consumer(application.records(1))

    def work() -> Any:
        value = next(consumer).value
        return value, current(), application.take()

    value, seen, reported = outside_of_loops(work)

    assert value == b"value-0"
    assert reported == []
    assert [(span.trace_id, span.id) for span in application.take()] == [seen]


def test_record_is_in_work_while_it_is_held(application: Any) -> None:
    """A record that a function returns is worked on by who called that, as long as it holds the record."""
    consumer = application.consumer(application.records(1))

    def work() -> Any:
        record = receive(consumer)
        inside = current()
        del record
        return inside, current()

    inside, after = outside_of_loops(work)

    assert after is None
    assert [(span.trace_id, span.id) for span in application.take()] == [inside]


class Reader:
    """Wraps a consumer, and gives only what is in its records."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer

    def __iter__(self) -> Reader:
        return self

    def __next__(self) -> Any:
        return next(self.consumer).offset


def test_record_is_in_work_in_a_loop_around_its_function(application: Any) -> None:
    """Where a loop is around the function that asked, which may ask again, its body is the work."""
    consumer = application.consumer(application.records(3))
    seen = outside_of_loops(lambda: [(offset, current()) for offset in Reader(consumer)])

    spans = application.take()
    assert offsets(spans) == [0, 1, 2]
    assert seen == [(at, (span.trace_id, span.id)) for at, span in enumerate(spans)]


def test_record_of_a_generator_is_in_work_until_the_next(application: Any) -> None:
    """A generator that gives values is where it asked as long as it is not closed."""
    consumer = application.consumer(application.records(2))

    def values() -> Any:
        yield next(consumer).value
        yield next(consumer).value

    def work() -> Any:
        made = values()
        next(made)
        first = current()
        next(made)
        second = current()
        del made
        return first, second, current()

    *seen, after = outside_of_loops(work)

    assert after is None
    assert [(span.trace_id, span.id) for span in application.take()] == seen


def test_lines_of_a_traceback_are_right_where_next_was_called(application: Any) -> None:
    """What is kept in the frame that asked changes nothing of what it tells."""
    consumer = application.consumer(application.records(1))

    def work() -> int:
        first = next(consumer)
        try:
            raise LookupError(first)
        except LookupError as error:
            (frame,) = traceback.extract_tb(error.__traceback__)
            assert frame.lineno is not None
            return frame.lineno - work.__code__.co_firstlineno

    assert outside_of_loops(work) == 3
    consumer.close()


def test_record_of_an_excluded_topic_that_is_let_go_passes_nothing_on(configured: Any) -> None:
    """The sender's span is no more the current one when the record is let go."""
    application = configured(exclude_topics=["orders"])
    sender = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"
    consumer = application.consumer(application.records(1, headers=[("b3", sender)]))

    def work() -> Any:
        assert read(consumer) == 0
        return current()

    assert outside_of_loops(work) is None


def test_record_that_is_let_go_in_another_thread_stays_in_work(application: Any) -> None:
    """Who asked for it may still be at it."""
    consumer = application.consumer(application.records(1))

    def work() -> Any:
        given = [receive(consumer)]
        other = threading.Thread(target=given.clear)
        other.start()
        other.join()
        return current()

    assert outside_of_loops(work) is not None
    consumer.close()


def test_record_equals_the_one_that_kafka_python_made(application: Any) -> None:
    """The application is given a record like any other."""
    made = application.record()
    consumer = application.consumer([made])
    record = next(consumer)

    assert (record, type(record), repr(record)) == (made, type(made), repr(made))
    consumer.close()


def test_debuggers_trace_function_stays_in_its_frame(application: Any) -> None:
    """What a debugger has put into the frame that asks is left alone."""
    consumer = application.consumer(application.records(1))

    def debug(*event: Any) -> Any:
        return debug

    def ask() -> Any:
        frame = sys._getframe()
        frame.f_trace = debug
        next(consumer)
        return frame.f_trace

    assert ask() is debug
    consumer.close()
