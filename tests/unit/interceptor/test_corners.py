"""Corners in which a span once came out wrong: sizes, threads, abandoned loops, missing classes."""

from __future__ import annotations

import sys
import threading
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import MessageSizeTooLargeError
from kafka.future import Future
from kafka.producer.future import FutureProduceResult, FutureRecordMetadata
from opentelemetry import context

from kaspan.config.schema import Sampling
from kaspan.interceptor.kafka import producer as producer_tracing
from support.kafka_clients import UnconnectedProducer
from support.programs import ProgramRunner
from support.ring_reader import current, offsets

ORDERS = TopicPartition("orders", 0)


class Returning(UnconnectedProducer):
    """A producer whose send() returns a failed future for a record that is too large, as kafka-python 2."""

    def send(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().send(*args, **kwargs)
        except MessageSizeTooLargeError as error:
            refused = FutureRecordMetadata(FutureProduceResult(ORDERS), 0, None, None, -1, -1, -1)
            return refused.failure(error)


@pytest.mark.parametrize("room_bytes", [0, 30])
@pytest.mark.parametrize("rate", [1.0, 0.0])
@pytest.mark.parametrize("kind", [UnconnectedProducer, Returning])
def test_record_that_fits_without_the_context_is_sent(
    configured: Any, kind: type, rate: float, room_bytes: int
) -> None:
    """A record at the limit of max_request_size is sent as without kaspan, however send() refuses it."""
    value = b"x" * 1000
    size = UnconnectedProducer()._estimate_size_in_bytes(None, value, []) + room_bytes
    application = configured(sampling=Sampling(rate=rate))
    traced = type("Producer", (kind,), {})
    producer_tracing.instrument(traced, Future, application.tracing)
    producer: Any = traced(max_request_size=size)
    for _ in range(2):  # the first send of a topic goes another way than the others
        future = producer.send("orders", value)

        assert future is producer.last.future
        assert (producer.last.value, producer.last.headers) == (value, [])
        producer.last.acknowledge()
    assert [span.tags.get("error") for span in application.take()] == [None] * int(2 * rate)


def test_record_that_is_too_large_without_the_context_fails_once(application: Any) -> None:
    """One span says that the record was refused, and the caller has the error of the second try."""
    traced = type("Producer", (Returning,), {})
    producer_tracing.instrument(traced, Future, application.tracing)
    future = traced(max_request_size=10).send("orders", b"x" * 1000)  # type: ignore[attr-defined]

    assert isinstance(future.exception, MessageSizeTooLargeError)
    (span,) = application.take()
    assert span.tags["error"] == str(future.exception)


def test_abandoned_iterator_is_no_parent_of_the_next_record(application: Any) -> None:
    """A loop over a polled list that is given up, but held, has no influence on what is polled next."""
    consumer = application.consumer(application.records(2), application.records(2))
    (records,) = consumer.poll().values()
    abandoned = iter(records)
    next(abandoned)
    for _ in next(iter(consumer.poll().values())):
        break
    del abandoned

    assert current() is None
    spans = application.take()
    assert len({span.trace_id for span in spans}) == len(spans)


def test_record_that_another_thread_has_ended_is_no_parent(application: Any) -> None:
    """After a consumer was closed by another thread, its last record is no parent of what is sent here."""
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


def test_one_list_looped_over_by_many_threads_is_one_span_for_each_record(application: Any) -> None:
    """Even when threads loop over one list at once, no record is a span twice."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    seen = []
    try:
        for _ in range(60):
            (records,) = application.consumer(application.records(50)).poll().values()
            threads = [threading.Thread(target=list, args=(records,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen.append(sorted(offsets(application.take())))
    finally:
        sys.setswitchinterval(interval)

    assert seen == [list(range(50))] * 60


MISSING = {
    "KafkaConsumer": ("import kafka.consumer.group as m; del m.KafkaConsumer", "True False"),
    "KafkaProducer": ("import kafka.producer.kafka as m; del m.KafkaProducer", "False True"),
    "ConsumerRecord": ("import kafka.consumer.fetcher as m; del m.ConsumerRecord", "True False"),
}


@pytest.mark.parametrize(("change", "expected"), MISSING.values(), ids=MISSING.keys())
def test_missing_patch_point_disables_only_its_feature(
    programs: ProgramRunner, change: str, expected: str
) -> None:
    """A kafka-python without a consumer that we know is traced as a producer, and the other way round."""
    code = (
        f"import kafka; {change}\nfrom kaspan.interceptor.bootstrap.activation import activate\nactivate()\n"
        "print(*(hasattr(m, '__wrapped__') for m in (kafka.KafkaProducer.send, kafka.KafkaConsumer.poll)))"
    )

    assert programs.plain(code).stdout == f"{expected}\n"


def test_class_that_another_agent_has_patched_is_traced_all_the_same(programs: ProgramRunner) -> None:
    """A wrapper of somebody else's around send() is not taken for ours, and stays below ours."""
    code = """
import functools, kafka
plain = kafka.KafkaProducer.send
@functools.wraps(plain)
def theirs(*args, **kwargs): return plain(*args, **kwargs)
kafka.KafkaProducer.send = theirs
from kaspan.interceptor.bootstrap.activation import activate
activate()
print(kafka.KafkaProducer.send is not theirs, kafka.KafkaProducer.send.__wrapped__ is theirs)
"""

    assert programs.plain(code).stdout == "True True\n"
