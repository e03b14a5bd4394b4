"""A record that `next(consumer)` returned is in work at most until Kafka takes its consumer for stalled."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace

from kaspan.interceptor.functions.decorators import follow_calls, traced
from kaspan.interceptor.functions.spans import FunctionSpans
from kaspan.interceptor.kafka import record_scope
from kaspan.interceptor.otel.sdk import make_provider
from support.implementations import python
from support.kafka_clients import header
from support.ring_reader import current, offsets

DEFAULT_S = 300
B3 = ("b3", b"%032x-%016x-1" % (7, 8))
NOT_SAMPLED = ("b3", b"%032x-%016x-0" % (7, 8))


class Clock:
    """A performance counter that goes on when it is told to."""

    def __init__(self) -> None:
        self.now_ns = time.perf_counter_ns()
        self.step_ns = 0
        """How far it goes on at each look."""

    def __call__(self) -> int:
        self.now_ns += self.step_ns
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now_ns += int(seconds * 10**9)


@pytest.fixture
def clock(implementation: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Give the clock that the records' scopes look at."""
    clock = Clock()
    if implementation is python:
        monkeypatch.setattr(record_scope, "performance_clock_ns", clock)
        yield clock
    else:
        implementation.set_clocks(time.time_ns, clock)
        yield clock
        implementation.set_clocks(time.time_ns, time.perf_counter_ns)


def sent(application: Any) -> bytes:
    """Send a record now, and return the context that went with it."""
    producer = application.producer()
    producer.send("shipments", b"")
    producer.last.acknowledge()
    return header(producer.last)


def is_in_trace(application: Any) -> bool:
    """Whether what is sent now belongs to the trace of the records here."""
    return sent(application).startswith(b"%032x" % 7)


def test_send_after_the_interval_begins_a_new_trace(application: Any, clock: Clock) -> None:
    """What a thread sends is the record's child until max_poll_interval_ms has passed, and not after it."""
    consumer = application.consumer([application.record(headers=[B3])], max_poll_interval_ms=60_000)
    next(consumer)

    clock.advance(59.9)
    assert is_in_trace(application)
    clock.advance(0.1)
    assert not is_in_trace(application)
    assert current() is None


def test_span_ends_at_the_interval_and_is_reported_once(application: Any, clock: Clock) -> None:
    """A record that nobody has asked to go on from was in work until the limit, whenever that is noticed."""
    consumer = application.consumer([application.record(headers=[B3])])
    next(consumer)
    clock.advance(10 * DEFAULT_S)
    sent(application)
    consumer.close()

    received = [span for span in application.take() if span.kind == "CONSUMER"]
    assert [(span.name, span.duration) for span in received] == [("process orders", DEFAULT_S * 10**6)]


def test_span_that_starts_behind_the_limit_has_a_length(application: Any, clock: Clock) -> None:
    """A process that stands still while the record's span is started gives it no duration below zero."""
    consumer = application.consumer([application.record(headers=[B3])], max_poll_interval_ms=1)
    clock.step_ns = 2_000_000
    next(consumer)
    consumer.close()

    (span,) = application.take()
    assert span.duration == 1


def test_next_call_after_the_interval_ends_the_span_at_the_interval(application: Any, clock: Clock) -> None:
    """The span is as long whether or not something was sent meanwhile."""
    consumer = application.consumer(application.records(2, headers=[B3]))
    next(consumer)
    clock.advance(2 * DEFAULT_S)
    next(consumer)

    (span,) = application.take()
    assert span.duration == DEFAULT_S * 10**6
    clock.advance(1)
    assert is_in_trace(application)
    consumer.close()


def test_next_call_within_the_interval_ends_the_span_there(application: Any, clock: Clock) -> None:
    """Each call begins the time anew, and the span lasts until the next one."""
    consumer = application.consumer(application.records(3, headers=[B3]))
    for _ in range(3):
        next(consumer)
        clock.advance(0.9 * DEFAULT_S)
        assert is_in_trace(application)
    consumer.close()

    received = [span for span in application.take() if span.kind == "CONSUMER"]
    assert {span.duration for span in received} == {int(0.9 * DEFAULT_S * 10**6)}


@pytest.mark.parametrize("given", [None, 0, -1, "300000", float("nan"), float("inf"), True, 2**31])
def test_interval_that_is_none_is_five_minutes(application: Any, clock: Clock, given: Any) -> None:
    """Where max_poll_interval_ms is missing or nonsense, kafka-python's default counts."""
    consumer = application.consumer([application.record(headers=[B3])], max_poll_interval_ms=given)
    next(consumer)

    clock.advance(DEFAULT_S - 0.1)
    assert is_in_trace(application)
    clock.advance(0.1)
    assert not is_in_trace(application)


def test_loop_has_no_limit(application: Any, clock: Clock) -> None:
    """In a loop's body the record is in work as long as the body takes."""
    for _ in application.consumer([application.record(headers=[B3])]):
        clock.advance(10 * DEFAULT_S)
        assert is_in_trace(application)


@pytest.mark.parametrize("headers", [[NOT_SAMPLED], [B3]], ids=["excluded", "excluded, sampled"])
def test_passed_on_context_has_the_same_limit(configured: Any, clock: Clock, headers: Any) -> None:
    """A record of an excluded topic, with its sender's context, is not a parent after the interval."""
    application = configured(exclude_topics=["orders"])
    consumer = application.consumer([application.record(headers=headers)])
    next(consumer)
    assert is_in_trace(application)

    clock.advance(DEFAULT_S)

    assert not is_in_trace(application)
    consumer.close()


def test_record_that_is_not_sampled_has_the_same_limit(application: Any, clock: Clock) -> None:
    """That a trace is not recorded holds for what is sent within the interval, and not for later sends."""
    consumer = application.consumer([application.record(headers=[NOT_SAMPLED])])
    next(consumer)
    assert sent(application).endswith(b"-0")
    clock.advance(DEFAULT_S)

    assert sent(application).endswith(b"-1")
    consumer.close()


def test_span_around_is_current_again_after_the_interval(application: Any, clock: Clock) -> None:
    """Within a span of the application's own, later sends are that one's children."""
    consumer = application.consumer([application.record(headers=[B3])])
    tracer = make_provider(application.tracing).get_tracer("hand")
    with tracer.start_as_current_span("request") as span:
        next(consumer)
        clock.advance(DEFAULT_S)
        context = sent(application)

    assert context.startswith(b"%032x" % span.get_span_context().trace_id)
    consumer.close()


def test_opentelemetry_sees_no_stale_span(application: Any, clock: Clock) -> None:
    """After the interval OpenTelemetry's instrumentations begin new traces, even if nothing was sent."""
    consumer = application.consumer([application.record(headers=[B3])])
    next(consumer)
    span = trace.get_current_span()
    assert span.get_span_context().is_valid
    assert span.is_recording()

    clock.advance(DEFAULT_S)

    assert not trace.get_current_span().get_span_context().is_valid
    assert not span.is_recording()
    assert trace.get_current_span() is trace.INVALID_SPAN
    assert offsets(application.take()) == [0]
    consumer.close()


def test_span_that_ended_in_time_keeps_its_context(application: Any, clock: Clock) -> None:
    """Who keeps a record's span, for a link, has its context however late."""
    consumer = application.consumer([application.record(headers=[B3])])
    next(consumer)
    span = trace.get_current_span()
    consumer.close()
    clock.advance(DEFAULT_S)

    assert span.get_span_context().trace_id == 7


def test_task_started_in_the_interval_is_out_of_the_record_after_it(application: Any, clock: Clock) -> None:
    """A copy of the context, as a task has it, holds the record no longer than the thread that asked."""
    consumer = application.consumer([application.record(headers=[B3])])

    async def later() -> tuple[Any, Any]:
        clock.advance(DEFAULT_S)
        return is_in_trace(application), current()

    async def main() -> tuple[Any, Any, Any]:
        next(consumer)
        task = asyncio.create_task(later())
        return *(await task), current()

    assert asyncio.run(main()) == (False, None, None)
    consumer.close()


def test_other_context_is_out_of_the_record_after_the_interval(application: Any, clock: Clock) -> None:
    """Where its time is first noticed in another context, it is over there and where it was asked for."""
    consumer = application.consumer([application.record(headers=[B3])])
    next(consumer)
    copied = contextvars.copy_context()
    clock.advance(DEFAULT_S)

    assert not copied.run(is_in_trace, application)
    assert not is_in_trace(application)
    assert current() is None
    consumer.close()


def test_function_after_the_interval_is_no_child_of_the_record(application: Any, clock: Clock) -> None:
    """A named function begins a trace of its own then, unless it is given the record."""
    consumer = application.consumer([application.record(headers=[B3])])
    follow_calls(FunctionSpans(application.tracing))
    try:
        record = next(consumer)
        clock.advance(DEFAULT_S)
        traced(lambda: None)()
        traced(lambda _: None)(record)
    finally:
        follow_calls(None)

    _, alone, given = application.take()
    assert alone.trace_id != f"{7:032x}"
    assert alone.parent_id is None
    assert given.trace_id == f"{7:032x}"
    consumer.close()


def test_record_of_another_consumer_is_not_under_the_stale_one(application: Any, clock: Clock) -> None:
    """A record whose headers name no sender begins a trace, where the record current before is over."""
    first = application.consumer([application.record(headers=[B3])])
    next(first)
    clock.advance(DEFAULT_S)
    for _ in application.consumer([application.record(topic="rates")]):
        pass

    rates = next(span for span in application.take() if span.tags["kafka.topic"] == "rates")
    assert rates.parent_id is None
    assert current() is None
    first.close()


def test_record_opened_by_another_thread_meanwhile_is_not_taken_for_this_one(
    configured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Two threads that share a consumer without a lock mix up neither their records nor kaspan's memory."""
    application = configured(exclude_topics=["orders"])
    excluded = application.record(headers=[B3])
    consumer = application.consumer([excluded, application.record(topic="rates", headers=[B3])])
    scope = application.tracing.scope
    enter = scope.enter

    def enter_while_another_reads(*args: Any) -> Any:
        scope.enter = enter
        entered = enter(*args)
        other = threading.Thread(target=lambda: next(consumer))
        other.start()
        other.join()
        return entered

    with make_provider(application.tracing).get_tracer("hand").start_as_current_span("request"):
        scope.enter = enter_while_another_reads
        assert next(consumer) is excluded
        consumer.close()
    assert caplog.messages == []
