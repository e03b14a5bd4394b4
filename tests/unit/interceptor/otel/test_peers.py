"""Every fault that other Python agents for kafka-python have, as a requirement that kaspan meets.

The names are those of what each agent does wrong: OpenTelemetry contrib, New Relic, Elastic, SkyWalking,
Instana; and what the OpenTelemetry Java agent does right and they do not.
"""

from __future__ import annotations

from typing import Any

import pytest
from kafka.errors import NotLeaderForPartitionError
from opentelemetry import trace

from support.kafka_clients import UnconnectedConsumer, UnconnectedProducer, header
from support.ring_reader import current, offsets

CONTEXT = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"


def test_poll_makes_spans_where_opentelemetry_makes_none(application: Any) -> None:
    """OpenTelemetry hooks __next__ only; here records that poll() returns are spans as well."""
    for records in application.consumer(application.records(2)).poll().values():
        for _ in records:
            assert current() is not None

    assert offsets(application.take()) == [0, 1]


def test_current_span_is_valid_in_the_loop_where_opentelemetry_has_closed_it(application: Any) -> None:
    """OpenTelemetry's receive span is over before the body begins; here it is current in the body."""
    for _ in application.consumer(application.records(1)):
        assert trace.get_current_span().is_recording()
        assert application.take() == []

    assert len(application.take()) == 1


def test_reused_headers_do_not_pile_up_where_opentelemetry_and_elastic_append(application: Any) -> None:
    """OpenTelemetry and Elastic append to the caller's list, once more for every use of it."""
    producer = application.producer()
    headers = [("tenant", b"7")]
    for _ in range(3):
        producer.send("orders", b"value", headers=headers)

    assert headers == [("tenant", b"7")]
    assert [len(appended.headers) for appended in producer.appended] == [2, 2, 2]


def test_positional_headers_of_none_work_where_opentelemetry_raises(application: Any) -> None:
    """OpenTelemetry: TypeError for send(topic, value, key, None)."""
    producer = application.producer()
    producer.send("orders", b"value", b"key", None)

    assert [key for key, _ in producer.last.headers] == ["b3"]


def test_positional_headers_and_partition_stay_in_place_where_elastic_is_off_by_one(application: Any) -> None:
    """Elastic takes args[4] for the headers: TypeError, or headers in the partition's place."""
    producer = application.producer()
    producer.send("orders", b"value", b"key", [("tenant", b"7")], 2, 1_700_000_000_000)

    assert producer.last.partition.partition == 2
    assert producer.last.timestamp_ms == 1_700_000_000_000
    assert producer.last.headers[0] == ("tenant", b"7")


def test_tuple_of_headers_fares_as_without_an_agent_where_opentelemetry_raises(application: Any) -> None:
    """OpenTelemetry: AttributeError for a tuple, in place of what kafka-python says to it."""

    def said(producer: Any) -> Any:
        with pytest.raises((TypeError, AssertionError)) as refused:
            producer.send("orders", b"value", headers=(("tenant", b"7"),))
        return type(refused.value), str(refused.value)

    assert said(application.producer()) == said(UnconnectedProducer())


@pytest.mark.parametrize("name", ["traceparent", "b3", "sw8", "X-B3-TraceId"])
def test_header_that_is_not_utf8_loses_no_record_where_opentelemetry_and_skywalking_raise(
    application: Any, name: str
) -> None:
    """OpenTelemetry and SkyWalking: UnicodeDecodeError out of the loop, when positions have moved on."""
    records = [application.record(at, headers=[(name, b"\xff\xfe")]) for at in range(3)]

    assert [record.offset for record in application.consumer(records)] == [0, 1, 2]
    assert offsets(application.take()) == [0, 1, 2]


def test_delivery_error_is_seen_where_five_agents_see_none(application: Any) -> None:
    """None of the five follows the future: errors, offset and acknowledgement are lost to them."""
    producer = application.producer()
    producer.send("orders", b"1")
    producer.send("orders", b"2", partition=1)
    producer.appended[0].fail(NotLeaderForPartitionError())
    producer.appended[1].acknowledge(offset=41)

    failed, sent = application.take()

    assert failed.tags["error.type"] == "NotLeaderForPartitionError"
    assert (sent.tags["messaging.destination.partition.id"], sent.tags["messaging.kafka.offset"]) == (
        "1",
        "41",
    )


def test_send_without_a_span_around_it_is_traced_where_new_relic_and_elastic_need_one(
    application: Any,
) -> None:
    """New Relic and Elastic trace nothing outside of their own transactions."""
    producer = application.producer()
    producer.send("orders", b"value")
    producer.last.acknowledge()

    assert len(application.take()) == 1


def test_break_leaves_no_context_where_new_relic_leaks_it(application: Any) -> None:
    """New Relic holds the record's transaction until the next record, so also after a break."""
    for _ in application.consumer(application.records(2)):
        break

    assert current() is None
    assert offsets(application.take()) == [0]


def test_serializer_of_kafka_python_3_works_where_new_relic_breaks_it(application: Any) -> None:
    """New Relic wraps serializers so that a subclass of kafka.serializer.Serializer fails."""
    module = pytest.importorskip("kafka.serializer")
    calls: list[Any] = []

    class Text(module.Serializer):  # type: ignore[misc]
        def serialize(self, topic: str, *rest: Any) -> bytes:
            calls.append((topic, len(rest)))
            return str(rest[-1]).encode()

    plain = UnconnectedProducer(value_serializer=Text(), key_serializer=Text())
    traced = application.producer(value_serializer=Text(), key_serializer=Text())
    for producer in (plain, traced):
        producer.send("orders", "value", key="key")

    assert (traced.last.key, traced.last.value) == (plain.last.key, plain.last.value) == (b"key", b"value")
    assert calls[:2] == calls[2:]


def test_polled_record_is_open_while_worked_on_where_skywalking_closes_it_before(application: Any) -> None:
    """SkyWalking's span is closed before the records are returned."""
    (records,) = application.consumer(application.records(1)).poll().values()
    for _ in records:
        assert trace.get_current_span().is_recording()
        trace.get_current_span().set_attribute("worked", "on")

    assert application.take()[0].tags["worked"] == "on"


def test_received_context_is_read_as_bytes_where_skywalking_reads_their_repr(application: Any) -> None:
    """SkyWalking takes str(header) for its text, which begins with b' and never parses."""
    for _ in application.consumer([application.record(headers=[("b3", CONTEXT)])]):
        pass

    assert application.take()[0].parent_id == "a2fb4a1d1a96d312"


def test_last_span_of_a_poll_is_closed_where_instana_leaves_it_open(application: Any) -> None:
    """Instana makes a span for each record of a poll, and the last one stays open and current."""
    consumer = application.consumer(application.records(3))
    for records in consumer.poll().values():
        for _ in records:
            pass

    assert current() is None
    assert offsets(application.take()) == [0, 1, 2]


def test_consumer_timeout_ends_the_loop_where_instana_goes_on_with_none(application: Any) -> None:
    """Instana swallows StopIteration: a loop with consumer_timeout_ms yields None for ever."""
    assert [record.offset for record in application.consumer(application.records(2))] == [0, 1]
    with pytest.raises(StopIteration):
        next(application.consumer())


def test_failing_send_raises_where_instana_returns_none(application: Any) -> None:
    """Instana swallows the exceptions of send()."""
    producer = application.producer()
    producer.let_append_fail(RuntimeError("broken"))

    with pytest.raises(RuntimeError, match="broken"):
        producer.send("orders", b"value")


def test_stale_trace_header_is_replaced_where_four_agents_add_one(application: Any) -> None:
    """Headers passed on from a record leave with one context and not with two."""
    producer = application.producer()
    producer.send("orders", b"value", headers=[("b3", CONTEXT)])

    assert header(producer.last).startswith(b"463ac35c9f6413ad48485a3953bb6124-")
    assert header(producer.last) != CONTEXT


def test_old_broker_gets_no_headers_where_five_agents_break_it(application: Any) -> None:
    """Before 0.11 a record with headers cannot be sent."""
    producer = application.producer(api_version=(0, 10, 2))
    producer.send("orders", b"value")

    assert producer.last.headers == []


def test_tombstone_is_said_where_five_agents_say_nothing(application: Any) -> None:
    """A record without a value is marked as a tombstone, sent and received."""
    producer = application.producer()
    producer.send("orders", None, b"key")
    producer.last.acknowledge()
    for _ in application.consumer([application.record(value=None, key=None)]):
        pass

    assert [span.tags["messaging.kafka.message.tombstone"] for span in application.take()] == ["true"] * 2


def test_empty_poll_makes_no_span_where_elastic_makes_one(application: Any) -> None:
    """A service that waits for records does not fill Zipkin with polls."""
    consumer = application.consumer()
    for _ in range(10):
        consumer.poll()

    assert application.take() == []


def test_topic_can_be_left_out_where_three_agents_cannot(configured: Any) -> None:
    """A topic of no interest makes no spans."""
    application = configured(exclude_topics=["audit.*"])
    producer = application.producer()
    producer.send("audit.log", b"value")
    producer.last.acknowledge()

    assert application.take() == []


def test_each_record_of_a_batch_keeps_its_own_trace_where_agents_mix_them(application: Any) -> None:
    """Records of one poll from different senders stay each in its sender's trace."""
    records = [
        application.record(at, headers=[("b3", b"%032x-%016x-1" % (at + 1, at + 1))]) for at in range(3)
    ]
    for polled in application.consumer(records).poll().values():
        for _ in polled:
            pass

    assert [int(span.trace_id, 16) for span in application.take()] == [1, 2, 3]


def test_null_header_value_is_no_fault_as_in_the_java_agents_tests(application: Any) -> None:
    """Kafka allows header values to be null."""
    (record,) = application.consumer([application.record(headers=[("b3", None), ("tenant", None)])])

    assert record.headers == [("b3", None), ("tenant", None)]
    assert len(application.take()) == 1


def test_headers_that_cannot_be_changed_are_not_as_in_the_java_agents_tests(application: Any) -> None:
    """A list that refuses every change is as good as any."""

    class ReadOnly(list[Any]):
        def append(self, item: Any) -> None:
            raise TypeError("read only")

        extend = insert = remove = __setitem__ = __delitem__ = append  # type: ignore[assignment]

    producer = application.producer()
    producer.send("orders", b"value", headers=ReadOnly([("tenant", b"7")]))

    assert [key for key, _ in producer.last.headers] == ["tenant", "b3"]


def test_record_seen_in_two_ways_is_one_span_as_in_the_java_agents_tests(application: Any) -> None:
    """A record taken by index and looped over afterwards is not counted twice."""
    (records,) = application.consumer(application.records(2)).poll().values()
    assert records[0].offset == 0
    for _ in records:
        pass

    assert sorted(offsets(application.take())) == [0, 1]


def test_exceptions_of_the_application_are_its_own_as_in_the_java_agents_tests(application: Any) -> None:
    """What the body raises leaves the loop as it was raised."""
    error = LookupError("mine")

    def work() -> None:
        for _ in application.consumer(application.records(1)):
            raise error

    with pytest.raises(LookupError) as raised:
        work()

    assert raised.value is error
    assert error.__context__ is None


def test_exceptions_of_the_consumer_reach_the_caller_as_in_the_java_agents_tests(application: Any) -> None:
    """A consumer that is closed says so as without an agent."""

    def said(consumer: Any) -> Any:
        consumer.close()
        try:
            return consumer.poll()
        except Exception as error:  # noqa: BLE001
            return type(error), str(error)

    assert said(application.consumer()) == said(UnconnectedConsumer())
