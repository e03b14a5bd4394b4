"""A record that is handed to a thread, a task or through a queue is followed, with nothing being named."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace

from kaspan.interceptor import traced
from kaspan.interceptor.functions.decorators import follow_calls
from kaspan.interceptor.functions.spans import FunctionSpans
from kaspan.interceptor.handover import queues
from kaspan.interceptor.handover.points import follow_no_records, follow_records
from kaspan.interceptor.import_hooks import imports
from support.programs import ProgramRunner, outcome
from support.ring_reader import RingReader, Span, current

TRACE = "463ac35c9f6413ad48485a3953bb6124"
SENT = [("b3", f"{TRACE}-a2fb4a1d1a96d312-1".encode())]
UNSAMPLED = [("b3", f"{TRACE}-a2fb4a1d1a96d312-0".encode())]


@pytest.fixture(autouse=True)
def followed(application: Any) -> Iterator[None]:
    """Follow the application's records, as its first consumer does."""
    follow_records(application.tracing, application.fetcher.ConsumerRecord, imports)
    follow_calls(FunctionSpans(application.tracing))
    yield
    follow_no_records()
    follow_calls(None)


def by_name(spans: list[Span]) -> dict[str, Span]:
    """Return the spans by their names, of which none comes twice."""
    named = {span.name or "": span for span in spans}
    assert len(named) == len(spans), spans
    return named


def handle(*args: Any, **kwargs: Any) -> tuple[str, str] | None:
    """Work on a record, and say what is current meanwhile."""
    return current()


async def ahandle(*args: Any, **kwargs: Any) -> tuple[str, str] | None:
    await asyncio.sleep(0)
    return current()


def submit(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(handle, record).result()


def submit_by_name(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(handle, 7, order=record).result()


def submit_partial(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(functools.partial(functools.partial(handle, record), 7), fast=True).result()


def submit_in_context(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(contextvars.copy_context().run, handle, record).result()


def submit_in_tuple(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(handle, (7, record)).result()


def submit_in_dict(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(handle, {"tries": 1, "record": record}).result()


def submit_list(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(handle, [record]).result()


def map_(record: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        (found,) = pool.map(handle, [record])
        return found


def thread(record: Any) -> Any:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda *args, **kwargs: seen.append(handle(*args)), args=(record,))
    thread.start()
    thread.join()
    return seen[0]


def timer(record: Any) -> Any:
    seen: list[Any] = []

    def work(given: Any) -> None:
        seen.append(handle(given))

    timer = threading.Timer(0, work, [record])
    timer.start()
    timer.join()
    assert timer.function is work
    return seen[0]


def to_thread(record: Any) -> Any:
    async def main() -> Any:
        return await asyncio.to_thread(handle, record)

    return asyncio.run(main())


def run_in_executor(record: Any) -> Any:
    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, handle, record)

    return asyncio.run(main())


def create_task(record: Any) -> Any:
    async def main() -> Any:
        return await asyncio.create_task(ahandle(record))

    return asyncio.run(main())


def gather(record: Any) -> Any:
    async def main() -> Any:
        return (await asyncio.gather(ahandle(7, order=record)))[0]

    return asyncio.run(main())


def wait_for(record: Any) -> Any:
    async def main() -> Any:
        return await asyncio.create_task(asyncio.wait_for(ahandle(record), 60))

    return asyncio.run(main())


def run(record: Any) -> Any:
    return asyncio.run(ahandle(record))


def run_on_uvloop(record: Any) -> Any:
    uvloop = pytest.importorskip("uvloop")

    async def main() -> Any:
        return await asyncio.create_task(ahandle(record))

    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(main())
    finally:
        loop.close()


WAYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "submit": ("handle", submit),
    "submit by name": ("handle", submit_by_name),
    "submit of a partial": ("handle", submit_partial),
    "submit in a context": ("handle", submit_in_context),
    "submit of a tuple": ("handle", submit_in_tuple),
    "submit of a dict": ("handle", submit_in_dict),
    "submit of a list": ("handle", submit_list),
    "map": ("handle", map_),
    "thread": ("<lambda>", thread),
    "timer": ("work", timer),
    "to_thread": ("handle", to_thread),
    "run_in_executor": ("handle", run_in_executor),
    "create_task": ("ahandle", create_task),
    "gather": ("ahandle", gather),
    "wait_for": ("ahandle", wait_for),
    "asyncio.run": ("ahandle", run),
    "uvloop": ("ahandle", run_on_uvloop),
}


@pytest.mark.parametrize("in_loop", [True, False], ids=["in the loop", "after the loop"])
@pytest.mark.parametrize(("name", "hand_over"), WAYS.values(), ids=WAYS.keys())
def test_who_is_handed_a_record_works_in_its_trace(
    application: Any, name: str, hand_over: Any, in_loop: bool
) -> None:
    """The callee is a span called after it, under the record's span, and current in the callee."""
    kept = []
    for record in application.consumer([application.record(headers=SENT)]):
        kept.append(record)
        if in_loop:
            inside = hand_over(record)
    if not in_loop:
        inside = hand_over(kept[0])

    spans = by_name(application.take())
    assert spans.keys() == {name, "process orders"}
    assert (spans[name].trace_id, spans[name].parent_id) == (TRACE, spans["process orders"].id)
    assert inside == (TRACE, spans[name].id)
    assert spans[name].kind is None
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_lambda_around_a_record_works_in_its_trace(application: Any) -> None:
    """What a function without arguments has from where it was made counts as what it is given."""

    def submit_lambda(pool: Any, record: Any) -> Any:
        return pool.submit(lambda: handle(record)).result(), pool.submit(lambda r=record: handle(r)).result()

    with ThreadPoolExecutor(1) as pool:
        (record,) = application.consumer([application.record(headers=SENT)])
        inside = submit_lambda(pool, record)

    first, second = (span for span in application.take() if span.kind is None)
    assert first.name == second.name == "<lambda>"
    assert inside == ((TRACE, first.id), (TRACE, second.id))


def test_batch_that_is_handed_over_is_one_span(application: Any) -> None:
    """Of what poll() returns the whole is a batch, in the first record's trace."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(handle, application.consumer(application.records(3)).poll()).result()
    application.take()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(handle, list(application.consumer(application.records(3)))).result()

    span = by_name([span for span in application.take() if span.kind is None])["handle"]
    assert span.tags["messaging.batch.message_count"] == "3"


def test_traces_of_all_records_that_are_handed_over_are_named(application: Any) -> None:
    """Of several records the first one's trace has the span, which names the traces of the others."""

    async def main() -> None:
        await asyncio.create_task(ahandle(first, other=second))
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        await waiting.put((1, first, second))
        await waiting.get()
        waiting.task_done()

    first, second = application.consumer(application.records(2))
    with ThreadPoolExecutor(1) as pool:
        pool.submit(handle, first, second).result()
        pool.submit(handle, {"left": first, "right": second}).result()
    asyncio.run(main())

    spans = application.take()
    first_trace, second_trace = (span.trace_id for span in spans if span.kind == "CONSUMER")
    handed = [span for span in spans if span.kind is None]
    assert [span.trace_id for span in handed] == [first_trace] * 4
    assert [span.tags.get("kafka.batch.trace_ids") for span in handed] == [second_trace] * 4


@traced("named")
def named(record: Any) -> Any:
    return current()


@traced("anamed")
async def anamed(record: Any) -> Any:
    return current()


@pytest.mark.parametrize("work", [named, anamed])
def test_named_function_is_one_span(application: Any, work: Any) -> None:
    """Who is named already gets no second span."""
    (record,) = application.consumer([application.record(headers=SENT)])
    if work is named:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work, record).result()
    else:
        asyncio.run(work(record))

    assert by_name(application.take()).keys() == {work.__wrapped__.__name__, "process orders"}


def test_error_of_who_was_handed_a_record_is_on_its_span(application: Any) -> None:
    """An exception marks the span and reaches who waits for the result."""

    def fail(record: Any) -> None:
        raise LookupError("no stock")

    async def afail(record: Any) -> None:
        raise LookupError("no stock")

    (record,) = application.consumer([application.record()])
    with ThreadPoolExecutor(1) as pool, pytest.raises(LookupError, match="no stock"):
        pool.submit(fail, record).result()
    with pytest.raises(LookupError, match="no stock"):
        asyncio.run(afail(record))

    failed = [span for span in application.take() if span.kind is None]
    assert [span.tags["error.type"] for span in failed] == ["LookupError"] * 2


def test_cancelled_task_has_a_span_without_error(application: Any) -> None:
    """A cancellation is not a failure."""

    async def wait(record: Any) -> None:
        await asyncio.sleep(3600)

    async def main() -> None:
        (record,) = application.consumer([application.record()])
        task = asyncio.create_task(wait(record))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    (span,) = (span for span in application.take() if span.kind is None)
    assert "error" not in span.tags


def test_error_that_nobody_looks_at_is_still_told_by_asyncio(application: Any) -> None:
    """As before, asyncio says that a task's exception was never retrieved."""
    told: list[Any] = []

    async def fail(record: Any) -> None:
        raise LookupError("no stock")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: told.append(context["message"])
        )
        (record,) = application.consumer([application.record()])
        task = asyncio.create_task(fail(record))
        await asyncio.wait([task])
        del task

    asyncio.run(main())
    assert told == ["Task exception was never retrieved"]


def test_what_is_given_no_record_is_no_span(application: Any) -> None:
    """Without a record nothing changes: no span, and no current one in the other thread."""

    async def main() -> Any:
        return await asyncio.to_thread(handle, 7)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handle, 7, [1], (2,), {"a": 3}, order=4).result() is None
    assert asyncio.run(main()) is None

    assert application.take() == []


def test_unsampled_record_is_followed_without_a_span(application: Any) -> None:
    """What is sent by who was handed an unsampled record goes on with its trace."""
    producer = application.producer()

    def send(record: Any) -> None:
        producer.send("shipments", b"value")

    with ThreadPoolExecutor(1) as pool:
        (record,) = application.consumer([application.record(headers=UNSAMPLED)])
        pool.submit(send, record).result()

    ((_, header),) = producer.last.headers
    assert header.startswith(TRACE.encode())
    assert header.endswith(b"-0")
    assert application.take() == []


def test_application_sees_its_own_functions_and_arguments(application: Any) -> None:
    """What waits in an executor or a task is what the application put there."""
    (record,) = application.consumer([application.record()])
    gate = threading.Event()

    async def main() -> None:
        coroutine = ahandle(record)
        task = asyncio.create_task(coroutine)
        assert task.get_coro() is coroutine
        await task

    with ThreadPoolExecutor(1) as pool:
        pool.submit(gate.wait)
        pool.submit(handle, record)
        item = pool._work_queue.queue[0] if hasattr(pool._work_queue, "queue") else pool._work_queue.get()
        given = item.task if hasattr(item, "task") else (item.fn, item.args, item.kwargs)
        assert given == (handle, (record,), {})
        gate.set()
    asyncio.run(main())


def test_task_that_starts_the_next_one_for_ever_stays_shallow(application: Any) -> None:
    """A record that goes from task to task 2,000 times is traced to the end."""

    async def again(record: Any, left: int) -> None:
        if left:
            await asyncio.sleep(0)
            tasks.append(asyncio.create_task(again(record, left - 1)))

    tasks: list[Any] = []

    async def main() -> None:
        for record in application.consumer([application.record(headers=SENT)]):
            task = asyncio.create_task(again(record, 1999))
        tasks.append(task)
        while tasks:
            await tasks.pop(0)

    asyncio.run(main())
    spans = application.take()
    assert len(spans) == 2001
    assert {span.trace_id for span in spans} == {TRACE}


def test_record_is_not_kept_alive(application: Any) -> None:
    """Nothing of a record is held once who was handed it is done."""

    class Value:
        pass

    value = Value()
    gone = weakref.ref(value)
    (record,) = application.consumer([application.record(value=value)])
    del value
    with ThreadPoolExecutor(1) as pool:
        pool.submit(handle, record).result()
        waiting: queue.Queue[Any] = queue.Queue()
        waiting.put(record)
        del record
        waiting.get()
        waiting.put(None)
        waiting.get()
        gc.collect()
        assert gone() is None


@pytest.mark.parametrize("hands_over", [True, False])
def test_exception_of_an_executors_call_is_in_no_cycle(application: Any, hands_over: bool) -> None:
    """As without kaspan, it is freed with what its frames hold when the last reference to the future goes."""

    class Value:
        pass

    def fail(*args: Any) -> None:
        raise LookupError("no stock")

    def work() -> weakref.ref[Value]:
        value = Value()
        (record,) = application.consumer([application.record(value=value)])
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(fail, record if hands_over else value)
            with contextlib.suppress(LookupError):
                future.result()
        del future  # which this frame, a part of the traceback, would keep
        return weakref.ref(value)

    gc.collect()
    gc.disable()
    try:
        assert work()() is None
    finally:
        gc.enable()


# Queues.


def taking(waiting: Any, count: int, seen: list[Any]) -> None:
    for _ in range(count):
        record = waiting.get()
        seen.append((record.offset, current()))
        waiting.task_done()
        seen.append(current())


@pytest.mark.parametrize("kind", [queue.Queue, queue.LifoQueue])
def test_who_takes_a_record_from_a_queue_works_in_its_trace(application: Any, kind: Any) -> None:
    """The taker's work on a record is a span called after the taker, until it says that it is done."""
    waiting, seen = kind(), []
    for record in application.consumer(application.records(3)):
        waiting.put(record)
    thread = threading.Thread(target=taking, args=(waiting, 3, seen))
    thread.start()
    thread.join()

    spans = application.take()
    processed = {span.tags["messaging.kafka.offset"]: span for span in spans if span.kind == "CONSUMER"}
    taken = [span for span in spans if span.kind is None]
    assert [span.name for span in taken] == ["taking"] * 3
    assert [(None, entry) for entry in seen[1::2]] == [(None, None)] * 3
    for span, (offset, inside) in zip(taken, seen[::2], strict=True):
        assert inside == (span.trace_id, span.id)
        assert span.parent_id == processed[str(offset)].id


def test_record_in_a_tuple_of_a_priority_queue_is_followed(application: Any) -> None:
    """A record in a queue's tuple with its priority is found."""
    waiting: queue.PriorityQueue[Any] = queue.PriorityQueue()
    (record,) = application.consumer([application.record(headers=SENT)])
    waiting.put((1, record))
    del record

    def take() -> Any:
        _priority, record = waiting.get()
        return current() if record.offset == 0 else None

    inside = take()
    span = by_name(application.take())["take"]
    assert inside == (TRACE, span.id)


def test_span_of_a_taker_ends_when_it_waits_for_the_next(application: Any) -> None:
    """While a worker waits for its queue it works on no record."""
    waiting: queue.Queue[Any] = queue.Queue()
    (record,) = application.consumer([application.record(headers=SENT)])
    waiting.put(record)
    assert waiting.get() is record
    with pytest.raises(queue.Empty):
        waiting.get_nowait()

    assert current() is None
    assert [span.kind for span in application.take()] == ["CONSUMER", None]


def test_span_of_a_taker_ends_when_it_lets_go_of_the_record(application: Any) -> None:
    """A function that takes one record and returns is done with it then."""
    waiting: queue.Queue[Any] = queue.Queue()
    for record in application.consumer([application.record(headers=SENT)]):
        waiting.put(record)
    del record

    def take_one() -> Any:
        record = waiting.get_nowait()
        assert record.offset == 0
        return current()

    inside = take_one()
    assert current() is None
    spans = {span.kind: span for span in application.take()}
    assert spans[None].name == "take_one"
    assert inside == (TRACE, spans[None].id)


def test_connection_taken_from_its_pool_does_not_end_the_work_on_a_record(application: Any) -> None:
    """Pools of connections are queues (urllib3's, asyncpg's): an item that is not a record ends no span."""
    connections: queue.LifoQueue[Any] = queue.LifoQueue()
    connections.put("connection")
    waiting: queue.Queue[Any] = queue.Queue()
    (record,) = application.consumer([application.record(headers=SENT)])
    waiting.put(record)
    waiting.get()
    mine = current()
    connections.get()
    connections.task_done()

    assert mine is not None
    assert current() == mine
    waiting.task_done()
    assert current() is None


def test_connection_taken_from_its_pool_does_not_end_the_work_of_a_task(application: Any) -> None:
    """The same with asyncio's queues, also where the task has to wait for a connection."""

    async def main() -> None:
        connections: asyncio.LifoQueue[Any] = asyncio.LifoQueue()
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        (record,) = application.consumer([application.record(headers=SENT)])
        await waiting.put(record)
        await waiting.get()
        mine = current()
        asyncio.get_running_loop().call_soon(connections.put_nowait, "connection")
        await connections.get()
        assert mine is not None
        assert current() == mine
        waiting.task_done()
        assert current() is None

    asyncio.run(main())


def test_record_taken_from_another_queue_ends_the_work_on_the_one_before(application: Any) -> None:
    """A worker of two queues works on one record at a time."""
    urgent: queue.Queue[Any] = queue.Queue()
    ordinary: queue.Queue[Any] = queue.Queue()
    first, second = application.consumer(application.records(2))
    urgent.put(first)
    ordinary.put(second)
    urgent.get()
    ordinary.get()
    inside = current()
    ordinary.task_done()

    assert current() is None
    spans = [span for span in application.take() if span.kind is None]
    assert len(spans) == 2
    assert inside == (spans[-1].trace_id, spans[-1].id)


class _Unhashable(type):
    def __eq__(cls, other: object) -> bool:
        raise LookupError("asked the application's metaclass")

    __hash__ = None  # type: ignore[assignment]


class Odd(metaclass=_Unhashable):
    """Its class cannot be looked up in a set."""


def test_type_that_cannot_be_hashed_is_handed_over_as_ever(application: Any) -> None:
    """Whether a value is a record is found out without a call of what its metaclass defines."""

    async def main() -> None:
        assert await asyncio.create_task(ahandle(odd)) is None
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        await waiting.put(odd)
        assert await waiting.get() is odd

    odd = Odd()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(handle, odd, [odd], {"odd": odd}, named=odd).result(60) is None
    seen: list[Any] = []
    thread = threading.Thread(target=seen.append, args=(odd,))
    thread.start()
    thread.join()
    assert seen == [odd]
    waiting: queue.Queue[Any] = queue.Queue()
    waiting.put(odd)
    assert waiting.get() is odd
    asyncio.run(main())
    assert application.take() == []


def test_record_in_two_queues_is_worked_on_by_both_takers(application: Any) -> None:
    """Who takes a record does not end the work of another who has taken it from another queue."""
    first: queue.Queue[Any] = queue.Queue()
    second: queue.Queue[Any] = queue.Queue()
    (record,) = application.consumer([application.record(headers=SENT)])
    first.put(record)
    second.put(record)
    first.get()
    mine = current()
    thread = threading.Thread(target=second.get)
    thread.start()
    thread.join()

    assert mine is not None
    assert current() == mine
    first.task_done()
    assert len(application.take()) == 3


def test_record_that_two_take_at_the_same_moment_is_worked_on_by_both(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work of one goes on when the work of the other ends."""
    first: queue.Queue[Any] = queue.Queue()
    second: queue.Queue[Any] = queue.Queue()
    (record,) = application.consumer([application.record(headers=SENT)])
    first.put(record)
    second.put(record)
    is_taken, can_end = threading.Event(), threading.Event()
    seen: list[Any] = []

    def work() -> None:
        second.get()
        is_taken.set()
        can_end.wait(60)
        seen.append(current())
        second.task_done()

    other = threading.Thread(target=work)

    class Holder(queues._Holder):
        def __init__(self, *args: Any) -> None:
            if not other.ident:
                other.start()
                is_taken.wait(60)
            super().__init__(*args)

    monkeypatch.setattr(queues, "_Holder", Holder)
    first.get()
    first.task_done()
    can_end.set()
    other.join()

    spans = {(span.trace_id, span.id): span for span in application.take() if span.kind is None}
    assert len(spans) == 2
    (inside,) = seen
    assert spans[inside].name == "work"
    assert list(spans)[-1] == inside


def test_coroutine_lets_go_of_its_record_when_it_wants(application: Any) -> None:
    """What a task was called with is not kept for it any longer than it keeps it itself."""

    class Value:
        pass

    async def handle(record: Any) -> None:
        gone = weakref.ref(record.value)
        del record
        await asyncio.sleep(0)
        assert gone() is None

    async def main() -> None:
        await asyncio.create_task(handle(application.record(value=Value())))

    asyncio.run(main())


def test_span_of_a_taker_ends_with_its_thread(application: Any) -> None:
    """A thread that has ended works on nothing, even if something still holds the record."""
    waiting: queue.Queue[Any] = queue.Queue()
    (record,) = application.consumer([application.record(headers=SENT)])
    waiting.put(record)
    thread = threading.Thread(target=waiting.get)
    thread.start()
    thread.join()
    deadline = time.monotonic() + 10
    spans = application.take()
    while len(spans) < 2 and time.monotonic() < deadline:
        spans += application.take()

    assert len(spans) == 2
    assert record.offset == 0


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_worker_of_an_asyncio_queue_works_in_its_records_trace(application: Any, loop: str) -> None:
    """Workers that take turns in one event loop each see their own record, and nothing while they wait."""
    seen: list[Any] = []

    async def worker(waiting: Any) -> None:
        while (record := await waiting.get()) is not None:
            await asyncio.sleep(0)
            seen.append((record.offset, current()))
            await asyncio.sleep(0)
            waiting.task_done()
            assert current() is None

    async def main() -> None:
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        workers = [asyncio.create_task(worker(waiting)) for _ in range(3)]
        for record in application.consumer(application.records(9)):
            await waiting.put(record)
        await waiting.join()
        for _ in workers:
            await waiting.put(None)
        await asyncio.gather(*workers)

    if loop == "uvloop":
        running = pytest.importorskip("uvloop").new_event_loop()
        running.run_until_complete(main())
        running.close()
    else:
        asyncio.run(main())
    spans = application.take()
    processed = {span.tags["messaging.kafka.offset"]: span for span in spans if span.kind == "CONSUMER"}
    taken = {(span.trace_id, span.id): span for span in spans if span.kind is None}
    assert len(processed) == len(taken) == len(seen) == 9
    for offset, inside in seen:
        assert taken[inside].parent_id == processed[str(offset)].id


def test_what_a_task_that_only_waits_for_a_queue_gets_is_no_span(application: Any) -> None:
    """A task made of `queue.get()` hands the record on to who waits for it, and works on nothing itself."""

    async def main() -> None:
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        (record,) = application.consumer([application.record(headers=SENT)])
        await waiting.put(record)
        assert await asyncio.create_task(waiting.get()) is record
        assert current() is None

    loop = pytest.importorskip("uvloop").new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    asyncio.run(main())
    assert [span.kind for span in application.take()] == ["CONSUMER"] * 2


def test_task_in_a_context_of_the_applications_own_is_left_alone(application: Any) -> None:
    """Into a context that the application gives to a task kaspan puts nothing: others may run in it too."""
    if sys.version_info < (3, 11):
        pytest.skip("asyncio's tasks take no context before 3.11")
    own = contextvars.Context()

    async def main() -> Any:
        (record,) = application.consumer([application.record(headers=SENT)])
        return await asyncio.create_task(ahandle(record), context=own)

    assert asyncio.run(main()) is None
    assert len(own) == 0
    assert len(application.take()) == 1


def test_task_of_a_taker_does_not_end_its_span(application: Any) -> None:
    """What another task takes, with a copy of the taker's context, says nothing about the taker."""

    async def main() -> None:
        waiting: asyncio.Queue[Any] = asyncio.Queue()
        (record,) = application.consumer([application.record(headers=SENT)])
        await waiting.put(record)
        await waiting.put(7)
        taken = await waiting.get()
        mine = current()
        await asyncio.create_task(waiting.get())
        assert current() == mine
        assert taken is record
        waiting.task_done()
        assert current() is None

    asyncio.run(main())
    assert len(application.take()) == 2


# In a program, beside others.

PROGRAM = """
import sys
def instrument():
    from opentelemetry.instrumentation.threading import ThreadingInstrumentor
    ThreadingInstrumentor().instrument()
if sys.argv[1] == "before":
    instrument()
import threading
from concurrent.futures import ThreadPoolExecutor
from support.kafka_clients import UnconnectedConsumer, make_record
from kafka.consumer import fetcher
from opentelemetry.trace import get_current_span

def handle(record):
    return "%016x" % get_current_span().get_span_context().span_id

def work(record, seen):
    seen.append(handle(record))

def start(kind, *args):
    thread = kind(*args)
    thread.start()
    thread.join()

headers = [("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")]
seen = []
with ThreadPoolExecutor(1) as pool:
    consumer = UnconnectedConsumer([make_record(fetcher.ConsumerRecord, headers=headers)])
    records = iter(consumer)
    if sys.argv[1] == "after":
        instrument()
    for record in records:
        seen.append(pool.submit(handle, record).result())
        start(threading.Thread, None, work, None, (record, seen))
        start(threading.Timer, 0, work, (record, seen))
print(*seen)
"""


@pytest.mark.parametrize("when", ["before", "after", "never"])
def test_instrumentation_for_threads_agrees(programs: ProgramRunner, when: str) -> None:
    """With OpenTelemetry's instrumentation for threads, whichever is first, there is one span for each, and
    it is the current one.
    """
    done = programs.run(*programs.kaspan_run(), programs.module("worker.py", PROGRAM), when)
    assert (done.returncode, done.stderr) == (0, "")

    *calls, processed = RingReader(programs.ring_dir).take()
    assert processed.kind == "CONSUMER"
    assert [span.name for span in calls] == ["handle", "work", "work"]
    assert {span.parent_id for span in calls} == {processed.id}
    assert done.stdout.split() == [span.id for span in calls]


def test_nothing_is_followed_where_that_is_switched_off(programs: ProgramRunner) -> None:
    """With interceptor.follow_handovers false nothing is patched but kafka-python."""
    done = programs.run(
        *programs.kaspan_run(),
        programs.module(
            "worker.py", PROGRAM + "print('kaspan.interceptor.handover.hand_overs' in sys.modules)"
        ),
        "never",
        KASPAN_INTERCEPTOR__FOLLOW_HANDOVERS="false",
    )

    assert outcome(done) == (0, " ".join(["0" * 16] * 3) + "\nFalse\n", "")
    assert [span.kind for span in RingReader(programs.ring_dir).take()] == ["CONSUMER"]


AT_EXIT = """
import queue, threading
from support.kafka_clients import UnconnectedConsumer, make_record
from kafka.consumer import fetcher

waiting, ready = queue.Queue(), threading.Barrier(3)

def take():
    record = waiting.get()
    ready.wait()
    threading.Event().wait()

def work(record):
    ready.wait()
    threading.Event().wait()

for record in UnconnectedConsumer([make_record(fetcher.ConsumerRecord)]):
    waiting.put(record)
    threading.Thread(target=take, daemon=True).start()
    threading.Thread(target=work, args=(record,), daemon=True).start()
ready.wait()
"""


def test_who_is_at_work_when_the_process_ends_has_a_span(programs: ProgramRunner) -> None:
    """Daemon threads that have a record when Python ends are seen."""
    done = programs.run(*programs.kaspan_run(), programs.module("worker.py", AT_EXIT))

    assert outcome(done) == (0, "", "")
    assert sorted(span.name or "" for span in RingReader(programs.ring_dir).take()) == [
        "process orders",
        "take",
        "work",
    ]


GREEN = {
    "gevent.spawn": "gevent.joinall([gevent.spawn(handle, record)])",
    "gevent.spawn_later": "gevent.joinall([gevent.spawn_later(0, handle, record)])",
    "gevent.pool": "gevent.pool.Pool(1).spawn(handle, record).join()",
    "gevent.pool, map": "gevent.pool.Pool(1).map(handle, [record])",
    "eventlet.spawn": "eventlet.spawn(handle, record).wait()",
    "eventlet.spawn_after": "eventlet.spawn_after(0, handle, record).wait()",
    "eventlet.GreenPool": "pool = eventlet.GreenPool(); pool.spawn(handle, record); pool.waitall()",
    "eventlet.GreenPool, spawn_n": "pool = eventlet.GreenPool(); pool.spawn_n(handle, record); "
    "pool.waitall()",
    "eventlet.spawn_n": "eventlet.spawn_n(handle, record); eventlet.sleep(0)",
    "nameko's worker": "pool = eventlet.GreenPool(); pool.spawn(Container().run, Context(record), None); "
    "pool.waitall()",
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", GREEN.values(), ids=GREEN.keys())
def test_green_thread_works_in_its_records_trace(programs: ProgramRunner, way: str) -> None:
    """Who is handed a record in gevent or eventlet is a span under the record's."""
    library = "eventlet" if "eventlet" in way else "gevent"
    pytest.importorskip(library)
    patch = "from gevent import monkey; monkey.patch_all(); import gevent.pool"
    if library == "eventlet":
        patch = "import eventlet; eventlet.monkey_patch()"
    program = f"""
import warnings; warnings.simplefilter("ignore")
{patch}
import {library}
from support.kafka_clients import UnconnectedConsumer, make_record
from kafka.consumer import fetcher
from opentelemetry.trace import get_current_span

def handle(record):
    print("%016x" % get_current_span().get_span_context().span_id)

class Context:
    def __init__(self, record):
        self.entrypoint, self.args, self.kwargs, self.data = object(), (record,), {{}}, None

class Container:
    def run(self, context, result):
        handle(*context.args)

headers = [("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")]
for record in UnconnectedConsumer([make_record(fetcher.ConsumerRecord, headers=headers)]):
    {way}
"""
    done = programs.run(*programs.kaspan_run(), programs.module("worker.py", program))
    assert (done.returncode, done.stderr) == (0, "")

    call, processed = RingReader(programs.ring_dir).take()
    assert (call.kind, processed.kind, call.parent_id) == (None, "CONSUMER", processed.id)
    assert call.name == ("Container.run" if "Container" in way else "handle")
    assert done.stdout == f"{call.id}\n"
