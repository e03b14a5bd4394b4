"""kafka-python, which blocks, under asyncio and in pools of threads: each task sees its own record's span."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace

from support.ring_reader import current, offsets


def send(producer: Any, topic: str) -> None:
    producer.send(topic, b"value")
    producer.last.acknowledge()


def assert_sent_under(spans: list[Any], suffix: str = "-out") -> None:
    """Hold each send to being the child of the record of the topic that it is named after."""
    processed = {span.id: span for span in spans if span.kind == "CONSUMER"}
    sent = [span for span in spans if span.kind == "PRODUCER"]
    assert len(sent) == len(processed)
    for span in sent:
        parent = processed.pop(span.parent_id)
        assert span.tags["kafka.topic"] == parent.tags["kafka.topic"] + suffix


async def poll_in_executor(consumer: Any, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    while polled := await asyncio.get_running_loop().run_in_executor(None, consumer.poll):
        for records in polled.values():
            for record in records:
                await work(record)


async def loop_in_the_event_loop(consumer: Any, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    for record in consumer:
        await work(record)


@pytest.mark.parametrize("consume", [poll_in_executor, loop_in_the_event_loop])
def test_record_in_work_stays_current_over_await(consume: Any, application: Any) -> None:
    """Tasks that take turns each send under their own record, before and after they wait."""

    async def main() -> None:
        async def consume_topic(topic: str) -> None:
            producer = application.producer()

            async def work(record: Any) -> None:
                mine = current()
                assert mine is not None
                await asyncio.sleep(0)
                assert current() == mine
                await asyncio.to_thread(send, producer, f"{topic}-out")
                assert current() == mine

            batches = [[application.record(n, topic=topic)] for n in range(3)]
            await consume(application.consumer(*batches), work)
            assert trace.get_current_span() is trace.INVALID_SPAN

        await asyncio.gather(*(consume_topic(f"topic-{number}") for number in range(4)))

    asyncio.run(main())

    spans = application.take()
    assert len(spans) == 24
    assert_sent_under(spans)


def test_task_started_in_the_body_works_under_its_record(application: Any) -> None:
    """A task inherits the span of the record in whose body it was created, and keeps it after that body."""

    async def main() -> None:
        producer = application.producer()

        async def later(topic: str) -> None:
            await asyncio.sleep(0)
            send(producer, topic)

        topics = [f"topic-{number}" for number in range(3)]
        consumer = application.consumer([application.record(0, topic=topic) for topic in topics])
        await asyncio.gather(*[asyncio.ensure_future(later(f"{record.topic}-out")) for record in consumer])

    asyncio.run(main())

    assert_sent_under(application.take())


def test_thread_that_ran_a_loop_is_left_without_a_span(application: Any) -> None:
    """After a whole loop has run in a thread of a pool, the next job in that thread has no parent."""
    producer = application.producer()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(list, application.consumer(application.records(3))).result()
        pool.submit(send, producer, "orders").result()

    *processed, sent = application.take()
    assert offsets(processed) == [0, 1, 2]
    assert sent.parent_id is None


def test_loop_cancelled_while_it_waits_ends_its_span(application: Any) -> None:
    """A task that is cancelled in the body of its loop leaves no span open."""

    async def main() -> None:
        async def consume() -> None:
            for _ in application.consumer(application.records(3)):
                await asyncio.sleep(3600)

        task = asyncio.ensure_future(consume())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    assert offsets(application.take()) == [0]


def test_asynchronous_generator_around_a_loop_is_one_span_a_record(application: Any) -> None:
    """Records handed on by `yield` of a coroutine have their spans while the reader works on them."""
    seen = []

    async def records(consumer: Any) -> Any:
        for record in consumer:
            yield record
            await asyncio.sleep(0)

    async def main() -> None:
        async for _ in records(application.consumer(application.records(3))):
            seen.append(current())
            await asyncio.sleep(0)

    asyncio.run(main())

    assert seen == [(span.trace_id, span.id) for span in application.take()]


async def polled(consumer: Any) -> Any:
    for records in consumer.poll().values():
        for record in records:
            yield record


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("leave", ["break", "return"])
def test_asynchronous_generator_that_is_left_leaves_nothing_current(application: Any, leave: str) -> None:
    """The event loop closes it in a task of its own: the reader's record is current there no longer."""
    seen = []

    async def read(consumer: Any) -> None:
        async for _ in polled(consumer):
            if leave == "return":
                return
            break

    async def main() -> None:
        producer = application.producer()
        for number in range(3):
            await read(application.consumer(application.records(2, topic=f"topic-{number}")))
            await turns()
            seen.append(current())
            send(producer, "orders")

    asyncio.run(main())

    assert seen == [None] * 3
    spans = application.take()
    assert [span.parent_id for span in spans] == [None] * len(spans)
    assert len({span.trace_id for span in spans}) == len(spans)


def test_task_of_a_body_keeps_its_record_though_the_generator_is_left(application: Any) -> None:
    """What was started in the body goes on under the record, whatever becomes of the reader."""

    async def main() -> None:
        producer = application.producer()

        async def later() -> None:
            await turns(10)
            send(producer, "orders-out")

        task = None
        async for _ in polled(application.consumer(application.records(2))):
            task = asyncio.ensure_future(later())
            break
        await turns()
        assert current() is None
        assert task is not None
        await task

    asyncio.run(main())

    spans = {span.name: span for span in application.take()}
    assert spans["send orders-out"].parent_id == spans["process orders"].id


def test_thousands_of_generators_that_are_left_are_traced(application: Any) -> None:
    """However many reads are given up in one task, each record has its span."""

    async def main() -> None:
        for number in range(1200):
            async for _ in polled(application.consumer([application.record(number)])):
                break
            if number % 2:
                await turns(1)

    asyncio.run(main())

    assert sorted(offsets(application.take())) == list(range(1200))


def test_thousands_of_tasks_that_each_start_the_next_are_traced(application: Any) -> None:
    """A tick that is started in the body of the one before is in its scope, and is not nested ever deeper."""

    async def main() -> None:
        done = asyncio.get_running_loop().create_future()
        consumer = application.consumer(*([application.record(number)] for number in range(1200)))

        async def tick(number: int) -> None:
            for records in consumer.poll().values():
                for _ in records:
                    if number == 1199:
                        done.set_result(True)
                    else:
                        tasks.append(asyncio.ensure_future(tick(number + 1)))

        tasks = [asyncio.ensure_future(tick(0))]
        await done

    asyncio.run(main())

    spans = application.take()
    assert sorted(offsets(spans)) == list(range(1200))
    assert {span.parent_id for span in spans} == {None}
