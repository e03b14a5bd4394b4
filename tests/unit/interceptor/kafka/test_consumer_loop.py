"""A CONSUMER span for each record of a loop: open and current in the body, ended however the body is left."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import TopicPartition
from opentelemetry import context, trace

from support.kafka_clients import UnconnectedConsumer, plain_record
from support.ring_reader import current, offsets


def test_process_span_says_what_was_received_from_where_by_whom(application: Any) -> None:
    """A record in a loop is one CONSUMER span with topic, partition, offset, key, group and client."""
    record = application.record(41, topic="orders", partition=2, key=b"order-7", timestamp=None)
    for _ in application.consumer([record], group_id="depot", client_id="depot-1"):
        pass

    (span,) = application.take()

    assert (span.name, span.kind) == ("process orders", "CONSUMER")
    assert span.local_endpoint.service_name == "shop"
    assert span.remote_endpoint.service_name == "kafka"
    assert span.parent_id is None
    assert span.tags == {
        "kafka.topic": "orders",
        "kafka.key": "order-7",
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "2",
        "messaging.kafka.offset": "41",
        "messaging.consumer.group.name": "depot",
        "messaging.client.id": "depot-1",
    }


def test_every_record_of_a_loop_is_one_span_in_order(application: Any) -> None:
    """Each record delivered gets exactly one span, over all polls and partitions."""
    batches = [application.records(3), [], [application.record(3), application.record(0, partition=1)]]
    delivered = [record.offset for record in application.consumer(*batches)]

    assert delivered == [0, 1, 2, 3, 0]
    assert offsets(application.take()) == delivered


def test_consumer_without_a_group_has_no_group_on_its_spans(application: Any) -> None:
    """Tags of missing fields are left out."""
    for _ in application.consumer([application.record()], group_id=None):
        pass

    assert "messaging.consumer.group.name" not in application.take()[0].tags


def test_record_in_work_is_the_current_span(application: Any) -> None:
    """In the body OpenTelemetry's current span is that of the record; after the loop there is none."""
    seen = [current() for _ in application.consumer(application.records(3))]

    assert seen == [(span.trace_id, span.id) for span in application.take()]
    assert current() is None


def test_span_ends_when_the_loop_asks_for_the_next_record(application: Any) -> None:
    """While a record is in work its span is not reported, and the one before it is."""
    reported = [len(application.take()) for _ in application.consumer(application.records(3))]

    assert reported == [0, 1, 1]
    assert len(application.take()) == 1


def test_span_lasts_as_long_as_the_body(application: Any) -> None:
    """The span covers what is done in the body: a send in it lies within it."""
    producer = application.producer()
    for _ in application.consumer([application.record()]):
        producer.send("orders", b"value")
        producer.last.acknowledge()

    sent, processed = application.take()

    assert processed.timestamp <= sent.timestamp
    assert sent.timestamp + sent.duration <= processed.timestamp + processed.duration


def test_send_in_the_body_is_a_child_of_the_record(application: Any) -> None:
    """What is sent while a record is in work continues the record's trace, in a span under its own."""
    producer = application.producer()
    record = application.record(headers=[("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")])
    for _ in application.consumer([record]):
        producer.send("shipments", b"value")
        producer.last.acknowledge()

    sent, processed = application.take()

    assert processed.trace_id == sent.trace_id == "463ac35c9f6413ad48485a3953bb6124"
    assert processed.parent_id == "a2fb4a1d1a96d312"
    assert sent.parent_id == processed.id


LEFT_EARLY: dict[str, Any] = {}


def leaves(function: Any) -> Any:
    LEFT_EARLY[function.__name__] = function
    return function


@leaves
def by_break(consumer: Any) -> None:
    for record in consumer:
        if record.offset == 1:
            break


@leaves
def by_return(consumer: Any) -> None:
    def first_of(consumer: Any) -> Any:
        for record in consumer:
            if record.offset == 1:
                return record
        return None

    assert first_of(consumer).offset == 1


@leaves
def by_an_exception(consumer: Any) -> None:
    def work(consumer: Any) -> None:
        for record in consumer:
            if record.offset == 1:
                raise LookupError(record.offset)

    with pytest.raises(LookupError):
        work(consumer)


@leaves
def by_an_exception_that_is_kept(consumer: Any) -> None:
    kept = None
    try:
        for record in consumer:
            if record.offset == 1:
                raise LookupError(record.offset)
    except LookupError as error:
        kept = error
    assert kept is not None
    assert current() is None


@leaves
def by_closing_a_generator(consumer: Any) -> None:
    def values() -> Iterator[Any]:
        for record in consumer:
            yield record.value

    generator = values()
    assert [next(generator), next(generator)] == [b"value-0", b"value-1"]
    assert current() is not None
    generator.close()


@leaves
def by_dropping_a_generator(consumer: Any) -> None:
    generator = (record.value for record in consumer)
    assert [next(generator), next(generator)] == [b"value-0", b"value-1"]


@leaves
def by_dropping_the_iterator(consumer: Any) -> None:
    iterator = iter(consumer)
    next(iterator)
    next(iterator)


@leaves
def by_closing_the_consumer_in_the_body(consumer: Any) -> None:
    for record in consumer:
        if record.offset == 1:
            consumer.close()
            assert current() is None


@leaves
def by_next_and_close(consumer: Any) -> None:
    assert next(consumer).offset == 0
    assert next(consumer).offset == 1
    assert current() is not None
    consumer.close()


@leaves
def by_with(consumer: Any) -> None:
    if not hasattr(consumer, "__enter__"):
        return by_next_and_close(consumer)
    with consumer:
        next(consumer)
        next(consumer)
    return None


@leaves
def by_zip(consumer: Any) -> None:
    for record, _ in zip(consumer, "a", strict=False):
        assert record.offset == 0


@leaves
def by_unpacking(consumer: Any) -> None:
    first, second = iter([next(consumer), next(consumer)])
    assert (first.offset, second.offset) == (0, 1)
    consumer.close()


@pytest.mark.parametrize("leave", LEFT_EARLY.values(), ids=LEFT_EARLY.keys())
def test_loop_that_is_left_early_ends_its_span_at_once(application: Any, leave: Any) -> None:
    """However the body is left, both records that were delivered have their span, and none is current."""
    consumer = application.consumer(application.records(5))

    leave(consumer)

    assert current() is None
    assert offsets(application.take()) == [0, 1]


def test_loop_that_is_left_goes_on_where_it_was(application: Any) -> None:
    """After a break a second loop delivers the record after the last one, each with its span."""
    consumer = application.consumer(application.records(4))
    for record in consumer:
        if record.offset == 1:
            break
    rest = [record.offset for record in consumer]

    assert rest == [2, 3]
    assert offsets(application.take()) == [0, 1, 2, 3]


def test_loop_and_next_may_alternate(application: Any) -> None:
    """A record taken by next() inside of a loop has a span of its own, and each is ended once."""
    consumer = application.consumer(application.records(4))
    seen = []
    for record in consumer:
        seen += [record.offset, next(consumer).offset]
    consumer.close()

    assert seen == [0, 1, 2, 3]
    assert sorted(offsets(application.take())) == [0, 1, 2, 3]


def test_two_consumers_interleaved_by_zip_leave_nothing_current(application: Any) -> None:
    """Of two loops that take turns each record is one span, the record taken last is current, and after
    them none.
    """
    orders = application.consumer(application.records(3))
    rates = application.consumer(application.records(3, topic="rates"))
    seen = [current() for _ in zip(orders, rates, strict=True)]

    assert current() is None
    spans = application.take()
    assert sorted(offsets(spans)) == [0, 0, 1, 1, 2, 2]
    last = [(span.trace_id, span.id) for span in spans if span.tags["kafka.topic"] == "rates"]
    assert seen == last


@pytest.mark.parametrize("first", [0, 1])
def test_two_consumers_interleaved_by_next_leave_nothing_current(application: Any, first: int) -> None:
    """In whichever order two consumers with a record in work are closed, none of them stays current."""
    consumers = [application.consumer(application.records(3, topic=topic)) for topic in ("orders", "rates")]
    for _ in range(2):
        for consumer in consumers:
            next(consumer)
    consumers[first].close()
    assert current() is not None
    consumers[1 - first].close()

    assert current() is None
    assert sorted(offsets(application.take())) == [0, 0, 1, 1]


def test_next_ends_the_span_of_the_record_before(application: Any) -> None:
    """Between two calls of next() the record is in work; with the second call its span ends."""
    consumer = application.consumer(application.records(2))
    next(consumer)
    assert application.take() == []

    next(consumer)

    assert offsets(application.take()) == [0]
    consumer.close()


def test_next_of_an_exhausted_consumer_ends_the_last_span(application: Any) -> None:
    """A timeout of the consumer is StopIteration as without kaspan, and the last record's span has ended."""
    consumer = application.consumer(application.records(1))
    next(consumer)

    with pytest.raises(StopIteration):
        next(consumer)

    assert current() is None
    assert offsets(application.take()) == [0]


def test_next_with_a_default_gives_the_default(application: Any) -> None:
    """The ways of asking that Python has work as without kaspan."""
    assert next(application.consumer(), None) is None


def test_consumer_that_goes_away_ends_the_span_of_its_last_record(configured: Any) -> None:
    """A consumer that is dropped without close() after next() leaves no span open."""
    application = configured()
    consumer = application.consumer(application.records(2))
    next(consumer)
    del consumer
    gc.collect()

    assert current() is None
    assert offsets(application.take()) == [0]


def test_loop_over_a_closed_consumer_ends_at_once(application: Any) -> None:
    """A closed consumer delivers nothing and makes no span."""
    consumer = application.consumer(application.records(2))
    consumer.close()

    assert list(consumer) == []
    assert application.take() == []


def test_collecting_a_loop_into_a_list_is_one_span_for_each(application: Any) -> None:
    """With list(consumer) each record is a span, however short."""
    records = list(application.consumer(application.records(3)))

    assert [record.offset for record in records] == [0, 1, 2]
    assert offsets(application.take()) == [0, 1, 2]
    assert current() is None


def test_exception_of_a_deserializer_is_the_applications(application: Any) -> None:
    """What the fetcher raises goes to the application, and the record before has its span."""
    consumer = application.consumer(application.records(1))

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise LookupError("no schema")

    seen = []

    def loop() -> None:
        for record in consumer:
            seen.append(record.offset)
            consumer._poll_once = fail

    with pytest.raises(LookupError, match="no schema"):
        loop()

    assert seen == [0]
    assert offsets(application.take()) == [0]
    assert current() is None


def test_loop_of_a_subclass_uses_its_own_next(application: Any) -> None:
    """A subclass that overrides __next__ is looped over by it, and its records have their spans."""

    class Counting(application.consumer_class):  # type: ignore[misc]
        taken = 0

        def __next__(self) -> Any:
            record = super().__next__()
            self.taken += 1
            return record

    consumer = Counting(application.records(3))

    assert [record.offset for record in consumer] == [0, 1, 2]
    consumer.close()

    assert consumer.taken == 3
    assert offsets(application.take()) == [0, 1, 2]


def test_two_consumers_may_be_looped_over_in_each_other(application: Any) -> None:
    """In the inner body the inner record is current, after it the outer one again."""
    inner = application.consumer(application.records(2, topic="rates"))
    seen = []
    for _ in application.consumer([application.record()]):
        outer_span = current()
        seen += [current() for _ in inner]
        assert current() == outer_span

    by_id = {(span.trace_id, span.id): span for span in application.take()}

    assert len(by_id) == 3
    assert [by_id[one].name for one in seen] == ["process rates", "process rates"]
    assert by_id[outer_span].name == "process orders"


def test_two_threads_have_each_their_own_current_span(application: Any) -> None:
    """Consumers in two threads at the same time see each only its own record."""
    barrier = threading.Barrier(2, timeout=30)
    seen: dict[str, list[Any]] = {"left": [], "right": []}

    def work(topic: str) -> None:
        for record in application.consumer(application.records(20, topic=topic)):
            barrier.wait()
            seen[topic].append((record.offset, current()))
            barrier.wait()

    threads = [threading.Thread(target=work, args=(topic,)) for topic in seen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    spans = {(span.trace_id, span.id): span for span in application.take()}
    assert len(spans) == 40
    for topic, pairs in seen.items():
        for offset, ids in pairs:
            assert spans[ids].tags["kafka.topic"] == topic
            assert spans[ids].tags["messaging.kafka.offset"] == str(offset)


def test_lag_is_how_many_records_are_behind_this_one(application: Any) -> None:
    """The lag is counted against the partition's end as the last fetch saw it: 0 at the last record."""
    consumer = application.consumer(application.records(3))
    consumer.set_highwater(TopicPartition("orders", 0), 3)
    for _ in consumer:
        pass

    assert [span.tags["kafka.lag"] for span in application.take()] == ["2", "1", "0"]


def test_unknown_lag_is_left_out(application: Any) -> None:
    """The lag is left out until the partition's end is known, and when that end is before the record."""
    consumer = application.consumer(application.records(2))
    consumer.set_highwater(TopicPartition("orders", 0), 1)
    other = application.consumer(application.records(1))
    for record in (*consumer, *other):
        assert record is not None

    first, second, third = application.take()

    assert first.tags["kafka.lag"] == "0"
    assert "kafka.lag" not in second.tags
    assert "kafka.lag" not in third.tags


def test_queue_time_is_from_the_records_timestamp_to_its_hand_over(application: Any) -> None:
    """The queue time in ms is the time a record has waited when the loop gets it."""
    sent_ms = 1_700_000_000_000
    for _ in application.consumer([application.record(timestamp=sent_ms)]):
        pass

    (span,) = application.take()

    assert int(span.tags["kafka.queue_time_ms"]) == span.timestamp // 1000 - sent_ms


@pytest.mark.parametrize("timestamp", [None, -1, 0, 1 << 50], ids=["none", "unset", "zero", "in the future"])
def test_queue_time_that_cannot_be_told_is_left_out(application: Any, timestamp: int | None) -> None:
    """Without a timestamp, or with one in the future, the tag is left out."""
    for _ in application.consumer([application.record(timestamp=timestamp)]):
        pass

    assert "kafka.queue_time_ms" not in application.take()[0].tags


def test_received_tombstone_is_said(application: Any) -> None:
    """A record with a null value is marked as a tombstone, and delivered as it came."""
    (record,) = application.consumer([application.record(value=None)])

    assert record.value is None
    assert application.take()[0].tags["messaging.kafka.message.tombstone"] == "true"


def test_record_without_key_has_no_key_tag(application: Any) -> None:
    """Null, empty and binary keys are left out."""
    keys = [None, b"", b"\xff\x00", 7, object()]
    for _ in application.consumer([application.record(at, key=key) for at, key in enumerate(keys)]):
        pass

    assert ["kafka.key" in span.tags for span in application.take()] == [False] * len(keys)


class Unasked:
    """A key that a deserializer made, of which nothing may be asked."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")

    __eq__ = __len__ = __str__ = __bool__  # type: ignore[assignment]


def test_key_that_raises_on_every_question_loses_no_span(application: Any) -> None:
    """A key may be any object, such as an array that has no truth value."""
    for _ in application.consumer([application.record(key=Unasked())]):
        pass

    assert offsets(application.take()) == [0]


@pytest.mark.parametrize("topic", ["100%", "%s%d", 'say "orders"', "Zürich", "a\\b", "{topic}"])
def test_topic_of_any_name_makes_a_whole_span(configured: Any, topic: str) -> None:
    """No topic's name breaks its span."""
    application = configured(remote_service="kafka/{topic}")
    for _ in application.consumer([application.record(topic=topic)]):
        pass

    (span,) = application.take()

    assert span.name == f"process {topic}"
    assert span.tags["kafka.topic"] == topic
    assert span.remote_endpoint.service_name == f"kafka/{topic}"


def test_unsampled_record_makes_no_span_and_passes_the_decision_on(configured: Any) -> None:
    """A trace that is not recorded has a current span all the same, so that sends pass it on."""
    application = configured(sampling__rate=0.0)
    producer = application.producer()
    for _ in application.consumer([application.record()]):
        trace_id, _ = current() or ("", "")
        assert not trace.get_current_span().is_recording()
        producer.send("shipments", b"value")

    assert producer.last.headers[0][1].startswith(trace_id.encode())
    assert producer.last.headers[0][1].endswith(b"-0")
    assert application.take() == []
    assert current() is None


def test_delivered_record_equals_the_plain_one(application: Any) -> None:
    """A record under kaspan equals the one without it, prints like it, and is one."""
    now = 1_700_000_000_000
    headers = [("b3", b"0"), ("b3", b"\xff"), ("tenant", None)]
    plain = plain_record(7, timestamp=now, headers=headers)
    (record,) = application.consumer([application.record(7, timestamp=now, headers=headers)])

    assert record == plain
    assert plain == record
    assert isinstance(record, type(plain))
    assert repr(record) == repr(plain)
    assert tuple(record) == tuple(plain)
    assert record._asdict() == plain._asdict()
    assert type(record).__name__ == type(plain).__name__
    assert record._replace(value=b"other") == plain._replace(value=b"other")


def test_traced_methods_keep_names_and_documentation(application: Any) -> None:
    """Tools that look at the patched methods find kafka-python's own."""
    for name in ("__iter__", "__next__", "poll", "close"):
        plain, traced = getattr(UnconnectedConsumer, name), getattr(application.consumer_class, name)
        assert traced.__wrapped__ is plain
        assert (traced.__name__, traced.__doc__) == (plain.__name__, plain.__doc__)


def test_iterator_has_what_the_consumer_has(application: Any) -> None:
    """An application may go on using what iter() returned as the consumer that it is without kaspan."""
    consumer = application.consumer(application.records(2))
    iterator = iter(consumer)

    assert iter(iterator) is iterator
    assert iterator.config is consumer.config
    assert iterator.assignment() == consumer.assignment()


def test_record_that_another_thread_has_ended_is_no_parent(application: Any) -> None:
    """After another thread has closed a consumer, its last record is not the parent of what is sent here."""
    consumer = application.consumer(application.records(2))
    next(consumer)
    closer = threading.Thread(target=consumer.close)
    closer.start()
    closer.join()
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()
    context.attach(context.Context())

    assert application.take()[-1].parent_id is None
