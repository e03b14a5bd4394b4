"""A PRODUCER span for each send, from the call to what became of the record."""

from __future__ import annotations

import gc
import inspect
import itertools
import random
import re
import sys
import threading
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError, NotLeaderForPartitionError
from opentelemetry import trace

from support.kafka_clients import NO_TOPIC, OFFSET, UnconnectedProducer


def test_send_span_says_what_was_sent_where_and_by_whom(application: Any) -> None:
    """An acknowledged send is one PRODUCER span with topic, partition, offset, key and client."""
    producer = application.producer(client_id="till-1")
    producer.send("orders", b"value", key=b"order-7", partition=2)
    producer.last.acknowledge(offset=41)

    (span,) = application.take()

    assert (span.name, span.kind) == ("send orders", "PRODUCER")
    assert span.local_endpoint.service_name == "shop"
    assert span.remote_endpoint.service_name == "kafka"
    assert span.parent_id is None
    assert span.tags == {
        "kafka.topic": "orders",
        "kafka.key": "order-7",
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "2",
        "messaging.kafka.offset": "41",
        "messaging.client.id": "till-1",
    }


def test_span_ends_with_the_acknowledgement(application: Any) -> None:
    """Until the broker has answered there is no span to report."""
    producer = application.producer()
    producer.send("orders", b"value")
    assert application.take() == []

    producer.last.acknowledge()

    assert len(application.take()) == 1


def test_span_says_when_send_returned(application: Any) -> None:
    """The annotation kafka.enqueued lies within the span: before it send() waited, after it the broker."""
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    (span,) = application.take()

    (annotation,) = span.annotations
    assert annotation.value == "kafka.enqueued"
    assert span.timestamp <= annotation.timestamp <= span.timestamp + span.duration


def test_record_carries_the_context_of_its_span(application: Any) -> None:
    """The b3 header names the trace and the very span of the send."""
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    (span,) = application.take()

    assert producer.last.headers == [("b3", f"{span.trace_id}-{span.id}-1".encode())]


def test_delivery_error_is_on_the_span(application: Any) -> None:
    """A record that the broker refuses ends its span with the error's message and type, and no offset."""
    producer = application.producer()
    future = producer.send("orders", b"value")
    error = NotLeaderForPartitionError("moved to 3")
    producer.last.fail(error)

    (span,) = application.take()

    assert future.exception is error
    assert span.tags["error"] == str(error)
    assert span.tags["error.type"] == "NotLeaderForPartitionError"
    assert "messaging.kafka.offset" not in span.tags


def test_error_without_a_message_is_named_by_its_type(application: Any) -> None:
    """The tag `error` is never empty, since Zipkin's page would show nothing."""
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.fail(ValueError())

    (span,) = application.take()

    assert (span.tags["error"], span.tags["error.type"]) == ("ValueError", "ValueError")


@pytest.mark.parametrize("offset", [-1, 0], ids=["before 3.0", "3.0"])
def test_send_without_acknowledgement_asked_for_has_no_offset(application: Any, offset: int) -> None:
    """With acks=0 kafka-python answers -1, and 3.0 answers 0 to each record: neither is an offset."""
    producer = application.producer(acks=0)
    producer.send("orders", b"value", partition=1)
    producer.last.acknowledge(offset=offset)

    (span,) = application.take()

    assert span.tags["messaging.destination.partition.id"] == "1"
    assert "messaging.kafka.offset" not in span.tags
    assert "error" not in span.tags


def test_tombstone_is_said(application: Any) -> None:
    """A null value deletes its key: the span says so."""
    producer = application.producer()
    producer.send("orders", None, b"order-7")
    producer.send("orders", key=b"order-8")
    for appended in producer.appended:
        appended.acknowledge()

    spans = application.take()

    assert [span.tags["messaging.kafka.message.tombstone"] for span in spans] == ["true", "true"]
    assert [appended.value for appended in producer.appended] == [None, None]


def test_value_that_is_not_null_is_no_tombstone(application: Any) -> None:
    """An empty value is a value."""
    producer = application.producer()
    producer.send("orders", b"")
    producer.last.acknowledge()

    assert "messaging.kafka.message.tombstone" not in application.take()[0].tags


KEYS: dict[str, tuple[Any, str | None]] = {
    "text": (b"order-7", "order-7"),
    "quotes and backslashes": (b'a"b\\c', 'a"b\\c'),
    "a percent sign": (b"100%s", "100%s"),
    "UTF-8": ("Zürich".encode(), "Zürich"),
    "beyond 16 bits": ("\N{GRINNING FACE}".encode(), "\N{GRINNING FACE}"),
    "no key": (None, None),
    "empty": (b"", None),
    "binary": (b"\x00\x01\x02", None),
    "not UTF-8": (b"\xff\xfe", None),
    "with a line's end": (b"a\nb", None),
    "a bytearray": (bytearray(b"order-7"), None),
    "long": (b"k" * 1000, "k" * 256),
    "long, cut off inside a character": (b"k" + "ü".encode() * 500, "k" + "ü" * 127),
    "long, and not UTF-8 before it is cut off": (b"\xff" * 1000, None),
}


@pytest.mark.parametrize(("key", "expected"), KEYS.values(), ids=KEYS.keys())
def test_key_is_a_tag_if_a_person_can_read_it(application: Any, key: Any, expected: str | None) -> None:
    """Only text is shown, at most 256 bytes of it; other keys are left out and sent unharmed."""
    producer = application.producer()
    producer.send("orders", b"value", key=key)
    producer.last.acknowledge()

    (span,) = application.take()

    assert producer.last.key == key
    assert span.tags.get("kafka.key") == expected


def test_key_that_a_serializer_makes_bytes_of_is_shown_as_given(application: Any) -> None:
    """With a key_serializer the application's own key is what a person knows."""
    producer = application.producer(key_serializer=Text(), value_serializer=Text())
    producer.send("orders", "value", key="order-7")
    producer.send("orders", "value", key=7)
    for appended in producer.appended:
        appended.acknowledge()

    first, second = application.take()

    assert first.tags["kafka.key"] == "order-7"
    assert "kafka.key" not in second.tags
    assert [appended.key for appended in producer.appended] == [b"order-7", b"7"]


class Text:
    """Serializes like an application of kafka-python 3 does, and like one of 2."""

    def serialize(self, *arguments: Any) -> bytes:
        return str(arguments[-1]).encode()

    __call__ = serialize


@pytest.mark.parametrize("topic", ["100%", "%s%d", 'say "orders"', "Zürich", "a\\b"])
def test_topic_of_any_name_makes_a_whole_span(application: Any, topic: str) -> None:
    """No topic's name breaks its span, though kafka-python itself refuses some."""
    producer = application.producer()
    try:
        producer.send(topic, b"value")
    except ValueError:
        pass
    else:
        producer.last.acknowledge()

    (span,) = application.take()

    assert span.name == f"send {topic}"
    assert span.tags["kafka.topic"] == span.tags["messaging.destination.name"] == topic


class Refusing:
    """A serializer whose data are wrong."""

    def serialize(self, *arguments: Any) -> bytes:
        raise LookupError("no schema for this value")

    __call__ = serialize


KASPANS = ("kafka/producer.py", "kafka/send_span.py", "kafka/primitives.pxi", "interceptor/compiled.pyx")


def frames(error: BaseException) -> list[str]:
    """Name the functions of a traceback, kaspan's own left out."""
    names = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if not code.co_filename.endswith(KASPANS):
            names.append(code.co_qualname if hasattr(code, "co_qualname") else code.co_name)
        traceback = traceback.tb_next
    return names


REFUSED = (TypeError, ValueError, AssertionError)
"""What kafka-python says to wrong arguments: AssertionError before version 3."""
FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], Any]] = {
    "serializer": ({"value_serializer": Refusing()}, {"value": b"value"}, LookupError),
    "too large": ({"max_request_size": 10}, {"value": b"x" * 100}, MessageSizeTooLargeError),
    "no metadata": ({}, {"topic": NO_TOPIC, "value": b"value"}, KafkaTimeoutError),
    "value of a wrong type": ({}, {"value": 7}, REFUSED),
    "neither key nor value": ({}, {}, REFUSED),
}


@pytest.mark.parametrize(("config", "arguments", "expected"), FAILURES.values(), ids=FAILURES.keys())
def test_exception_of_send_reaches_the_caller_as_without_kaspan(
    application: Any, config: dict[str, Any], arguments: dict[str, Any], expected: Any
) -> None:
    """Type, message and the frames but kaspan's are those of an untraced send; the span has the error."""
    arguments = {"topic": "orders", **arguments}

    plain = error_of_send(UnconnectedProducer(**config), arguments)
    traced = error_of_send(application.producer(**config), arguments)

    assert isinstance(plain, expected)
    assert type(traced) is type(plain)
    # The size that a message may name includes the header.
    assert re.sub(r"\d+", "", str(traced)) == re.sub(r"\d+", "", str(plain))
    assert frames(traced) == frames(plain)
    assert traced.__cause__ is None
    assert traced.__suppress_context__ == plain.__suppress_context__
    (span,) = application.take()
    assert span.tags["error.type"] == type(plain).__name__
    assert span.tags["error"]


def error_of_send(producer: Any, arguments: dict[str, Any]) -> BaseException:
    """Return what send() raises; kafka-python before 3 has some errors in the future instead."""
    try:
        future = producer.send(**arguments)
    except Exception as error:  # noqa: BLE001
        return error
    assert isinstance(future.exception, BaseException)
    return future.exception


def test_closed_producer_says_so_as_without_kaspan(application: Any) -> None:
    """Sending on a closed producer raises kafka-python's own error, and the span has it."""
    producer = application.producer()
    producer.close()

    with pytest.raises(Exception, match="closed") as refused:
        producer.send("orders", b"value")

    (span,) = application.take()
    assert span.tags["error.type"] == type(refused.value).__name__


def test_full_buffer_is_an_error_of_send(application: Any) -> None:
    """A record for which there is no room raises KafkaTimeoutError to the caller and ends its span."""
    producer = application.producer()
    producer.let_append_fail(KafkaTimeoutError("Failed to allocate memory"))

    with pytest.raises(KafkaTimeoutError, match="allocate memory"):
        producer.send("orders", b"value")

    (span,) = application.take()
    assert span.tags["error.type"] == "KafkaTimeoutError"
    assert span.annotations == []


def test_interrupted_send_ends_its_span_and_stays_an_interrupt(application: Any) -> None:
    """A Ctrl-C inside send() is an error on the span and goes to the caller."""
    producer = application.producer()
    producer.let_append_fail(KeyboardInterrupt())

    with pytest.raises(KeyboardInterrupt):
        producer.send("orders", b"value")

    assert application.take()[0].tags["error.type"] == "KeyboardInterrupt"


def test_callbacks_of_the_application_run_as_without_kaspan(application: Any) -> None:
    """A callback is given the metadata, an errback the error, and the future is kafka-python's own."""
    producer = application.producer()
    sent: list[Any] = []
    failed: list[Any] = []
    first = producer.send("orders", b"1").add_callback(sent.append).add_errback(failed.append)
    second = producer.send("orders", b"2").add_callback(sent.append).add_errback(failed.append)
    assert [first, second] == [appended.future for appended in producer.appended]
    error = NotLeaderForPartitionError()
    producer.appended[0].acknowledge()
    producer.appended[1].fail(error)

    assert [metadata.offset for metadata in sent] == [OFFSET]
    assert failed == [error]
    assert first.get(timeout=1).offset == OFFSET


def test_callback_that_raises_harms_no_span(application: Any) -> None:
    """What an application's callback does, the send's span is reported all the same."""
    producer = application.producer()
    producer.send("orders", b"value").add_callback(lambda metadata: 1 / 0)
    producer.last.acknowledge()

    assert len(application.take()) == 1


def test_callback_runs_in_the_context_of_the_thread_that_completes_the_send(application: Any) -> None:
    """In a callback no span of kaspan's is current: it may run in any thread, at any time."""
    producer = application.producer()
    seen: list[Any] = []
    producer.send("orders", b"value").add_callback(lambda metadata: seen.append(trace.get_current_span()))
    producer.last.acknowledge()

    assert seen == [trace.INVALID_SPAN]


def test_send_never_answered_ends_as_a_timeout_when_it_is_given_up(configured: Any) -> None:
    """A record whose acknowledgement never comes has a span with `error` = timeout once it is collected."""
    application = configured()
    producer = application.producer()
    producer.send("orders", b"value", key=b"order-7")
    producer.forget()
    gc.collect()

    (span,) = application.take()

    assert (span.tags["error"], span.tags["error.type"]) == ("timeout", "timeout")
    assert span.tags["kafka.key"] == "order-7"


def test_send_that_was_answered_has_no_second_span_when_it_is_collected(configured: Any) -> None:
    """Each send is one span, whatever happens to its future later."""
    application = configured()
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()
    producer.forget()
    gc.collect()

    assert len(application.take()) == 1


def test_future_that_is_done_when_send_returns_is_a_whole_span(application: Any) -> None:
    """A send that fails before it is buffered returns a failed future, and its span has the error."""
    producer = application.producer()
    producer.let_sends_fail_at_once(NotLeaderForPartitionError())
    producer.send("orders", b"value")

    (span,) = application.take()
    assert span.tags["error.type"] == "NotLeaderForPartitionError"


def test_unsampled_send_makes_no_span_and_passes_the_decision_on(configured: Any) -> None:
    """At rate 0 nothing is recorded, and b3 ...-0 tells the next service so."""
    application = configured(sampling__rate=0.0)
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    ((key, value),) = producer.last.headers
    assert key == "b3"
    assert value.endswith(b"-0")
    assert len(value) == 32 + 1 + 16 + 2
    assert application.take() == []


def test_remote_service_may_name_the_topic(configured: Any) -> None:
    """With kafka/{topic} each topic is a node of its own in Zipkin's graph."""
    application = configured(remote_service="kafka/{topic}")
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    assert application.take()[0].remote_endpoint.service_name == "kafka/orders"


def test_remote_service_may_be_left_out(configured: Any) -> None:
    """With an empty text the span has no remote endpoint."""
    application = configured(remote_service="")
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    assert application.take()[0].remote_endpoint is None


def test_traced_send_keeps_name_and_signature(application: Any) -> None:
    """Tools that look at send() find kafka-python's own name, documentation and arguments."""
    plain = UnconnectedProducer.send
    traced = application.producer_class.send

    assert traced.__wrapped__ is plain
    assert (traced.__name__, traced.__doc__) == (plain.__name__, plain.__doc__)
    assert inspect.signature(traced) == inspect.signature(plain)


def test_sends_of_different_traces_have_different_ids(application: Any) -> None:
    """Sends outside of any span are traces of their own, each with ids of its own."""
    producer = application.producer()
    for _ in range(100):
        producer.send("orders", b"value")
        producer.last.acknowledge()

    spans = application.take()

    assert len({span.trace_id for span in spans}) == len({span.id for span in spans}) == 100


def test_random_seed_of_the_application_repeats_no_trace(application: Any) -> None:
    """An application that seeds Python's generator for its own ends gets other trace ids all the same."""
    producer = application.producer()
    state = random.getstate()
    try:
        for _ in range(3):
            random.seed(7)
            producer.send("orders", b"value")
            producer.last.acknowledge()
    finally:
        random.setstate(state)

    assert len({span.trace_id for span in application.take()}) == 3


def test_send_of_a_subclass_is_one_span(application: Any) -> None:
    """An application's own producer, whose send() calls kafka-python's, makes one span for a record."""

    class Till(application.producer_class):  # type: ignore[misc]
        def send(self, topic: str, value: Any = None, **kwargs: Any) -> Any:
            return super().send(topic, value, **kwargs)

    producer = Till()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    assert len(application.take()) == 1


def test_class_with_attributes_of_its_own_making_is_traced(application: Any) -> None:
    """A subclass that forwards attributes, or refuses unknown ones, is not asked for or given kaspan's."""
    asked = []

    class Handing(application.producer_class):  # type: ignore[misc]
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            raise KeyError(name)

    class Strict(application.producer_class):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            if "kaspan" in name:
                raise AttributeError(name)
            super().__setattr__(name, value)

    for producer in (Handing(), Strict()):
        producer.send("orders", b"value")
        producer.last.acknowledge()

    assert len(application.take()) == 2
    assert not asked


def test_open_sends_are_found_while_another_thread_sends_to_new_topics(
    application: Any,
) -> None:
    """When Python ends, a daemon thread that still sends does not keep spans from being reported."""
    interval_s = sys.getswitchinterval()
    producer = application.producer()
    producer.send("orders", b"value")
    state, is_done = producer._kaspan, threading.Event()
    for number in range(2000):
        state._templates_of(f"topic-{number}")

    def send() -> None:
        for number in itertools.count(2000):
            if is_done.is_set():
                return
            state._templates_of(f"topic-{number % 9000}")

    sending = threading.Thread(target=send)
    sending.start()
    try:
        sys.setswitchinterval(1e-6)
        assert all(state.has_open_sends() for _ in range(100))
    finally:
        sys.setswitchinterval(interval_s)
        is_done.set()
        sending.join()
