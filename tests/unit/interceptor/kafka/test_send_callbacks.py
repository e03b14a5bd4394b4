"""What a callback of a send sends is in the trace of that send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kafka.errors import NotLeaderForPartitionError
from kafka.producer.future import FutureRecordMetadata
from opentelemetry import trace

from kaspan.interceptor.kafka.send_callbacks import follow_callbacks
from support.kafka_clients import header
from support.programs import ProgramRunner, outcome
from support.ring_reader import RingReader, current

TRACE = "463ac35c9f6413ad48485a3953bb6124"
SENDER = "a2fb4a1d1a96d312"


@pytest.fixture
def followed(configured: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give a way to make an application whose futures are patched, as its start does it."""

    def make(**settings: Any) -> Any:
        application = configured(**settings)
        for name in ("add_callback", "add_errback"):
            monkeypatch.setattr(FutureRecordMetadata, name, getattr(FutureRecordMetadata, name))
        follow_callbacks(FutureRecordMetadata, application.tracing)
        return application

    return make


def answer(producer: Any, is_acknowledged: bool) -> None:
    """Let the broker acknowledge or refuse all that it has not answered."""
    for appended in list(producer.appended):
        if not appended.future.is_done:
            appended.acknowledge() if is_acknowledged else appended.fail(NotLeaderForPartitionError())


@pytest.mark.parametrize("is_acknowledged", [True, False])
@pytest.mark.parametrize("way", ["add_callback and add_errback", "add_both"])
def test_send_in_a_callback_is_a_child_of_the_send(followed: Any, way: str, is_acknowledged: bool) -> None:
    """Of the one that was acknowledged or has failed, as in Brave; and the application's arguments arrive."""
    application = followed()
    producer = application.producer()
    given: list[Any] = []

    def then(text: str, outcome: Any, *, count: int = 0) -> None:
        given.append((text, type(outcome).__name__, count))
        producer.send("audit", b"value")

    future = producer.send("orders", b"value")
    if way == "add_both":
        assert future.add_both(then, "text", count=3) is future
    else:
        assert future.add_callback(then, "text", count=3) is future
        assert future.add_errback(then, "text", count=3) is future
    answer(producer, is_acknowledged)
    answer(producer, True)

    sent, audited = application.take()

    kind = "RecordMetadata" if is_acknowledged else type(NotLeaderForPartitionError()).__name__
    assert given == [("text", kind, 3)]
    assert (audited.name, audited.trace_id, audited.parent_id) == ("send audit", sent.trace_id, sent.id)
    assert current() is None


def test_callback_runs_in_the_scope_of_its_send_and_leaves_none_behind(followed: Any) -> None:
    """Whatever scope it is called in, which is there again afterwards, also when it raises."""
    application = followed()
    producer = application.producer()
    seen = []

    def then(metadata: Any) -> None:
        span: Any = trace.get_current_span()
        seen.append((span.name, span.context.span_id, span.is_recording()))
        raise LookupError

    producer.send("orders", b"value").add_callback(then)
    for _ in application.consumer([application.record()]):
        outside = current()
        producer.last.acknowledge()
        assert current() == outside
    sent, _ = application.take()

    assert seen == [("send orders", int(sent.id, 16), False)]


def test_callback_for_an_answer_that_is_there_runs_in_the_callers_scope(followed: Any) -> None:
    """It is called by add_callback() itself, and is not about what happens later."""
    application = followed()
    producer = application.producer()
    future = producer.send("orders", b"value")
    producer.last.acknowledge()
    seen: list[Any] = []
    for _ in application.consumer([application.record()]):
        future.add_callback(lambda _: seen.append(current()))
        assert seen == [current()]


def test_callback_whose_answer_comes_as_it_is_added_runs_in_the_callers_scope(followed: Any) -> None:
    """What kafka-python has forgotten of the send by then does not make it one that is not sampled."""
    application = followed()
    producer = application.producer()
    future: Any = producer.send("orders", b"value")
    answered = producer.last
    kind = type(future)

    def is_done(self: Any) -> bool:
        self.__class__ = kind
        answered.acknowledge()
        return False

    future.__class__ = type("Late", (kind,), {"__slots__": (), "is_done": property(is_done)})
    future.add_callback(lambda _: producer.send("audit", b"value"))

    assert header(producer.last).endswith(b"-1")


def test_debugged_trace_stays_so_in_a_callback(followed: Any) -> None:
    """What a callback of a debugged send sends is recorded whatever the rate."""
    application = followed(sampling__rate=0.0)
    producer = application.producer()
    debugged = [("b3", f"{TRACE}-{SENDER}-d".encode())]
    producer.send("orders", b"value", headers=debugged).add_callback(
        lambda _: producer.send("audit", b"value")
    )
    answer(producer, True)
    answer(producer, True)

    assert [(span.trace_id, span.debug) for span in application.take()] == [(TRACE, True)] * 2


def test_state_of_the_trace_goes_on_in_a_callback(followed: Any) -> None:
    """The tracestate of the record that is worked on goes on with what the callback sends."""
    application = followed(propagation__inject="[tracecontext]")
    producer = application.producer()
    headers = [("traceparent", f"00-{TRACE}-{SENDER}-01".encode()), ("tracestate", b"vendor=1")]
    for _ in application.consumer([application.record(headers=headers)]):
        producer.send("orders", b"value").add_callback(lambda _: producer.send("audit", b"value"))
    answer(producer, True)

    assert header(producer.last, "tracestate") == b"vendor=1"
    assert header(producer.last, "traceparent")[3:35] == TRACE.encode()


@pytest.mark.parametrize("within", [True, False])
def test_callback_of_a_send_that_is_not_recorded_records_nothing(followed: Any, within: bool) -> None:
    """The decision for a trace is kept: no part of it is recorded here or downstream."""
    application = followed(sampling__rate=0.0)
    producer = application.producer()
    not_sampled = [("b3", f"{TRACE}-{SENDER}-0".encode())]
    for _ in application.consumer([application.record(headers=not_sampled)]) if within else "1":
        producer.send("orders", b"value").add_callback(lambda _: producer.send("audit", b"value"))
    application.tracing.sampler.bound = 2**64  # what begins a trace now is recorded
    application.tracing._samples_all = True
    answer(producer, True)

    assert header(producer.last).endswith(b"-0")
    assert header(producer.last).startswith(TRACE.encode()) == within
    assert application.take() == []


def test_callback_of_a_send_to_an_excluded_topic_begins_a_trace(followed: Any) -> None:
    """Nothing is known of such a send, not even that it is not recorded."""
    application = followed(exclude_topics="[noise]")
    producer = application.producer()
    producer.send("noise", b"value").add_callback(lambda _: producer.send("orders", b"value"))
    answer(producer, True)
    answer(producer, True)

    (span,) = application.take()
    assert (span.name, span.parent_id) == ("send orders", None)


def test_callbacks_are_followed_in_an_unchanged_application(programs: ProgramRunner) -> None:
    """From the first client on, once, and under the names and signatures of kafka-python."""
    code = """
import inspect
from support.kafka_clients import UnconnectedProducer
from kafka.producer.future import FutureRecordMetadata as F
before = [inspect.signature(add) for add in (F.add_callback, F.add_errback)]
producer = UnconnectedProducer()
producer.send("orders", b"value").add_callback(lambda _: producer.send("audit", b"value"))
for number in (0, 1): producer.appended[number].acknowledge()
print(before == [inspect.signature(add) for add in (F.add_callback, F.add_errback)])
"""

    assert outcome(programs.traced(code)) == (0, "True\n", "")

    assert len({span.trace_id for span in RingReader(programs.ring_dir).take()}) == 1
