"""poll(): one CONSUMER span for each record, `process` if a loop works on it, else `poll`."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import io
import itertools
import json
import pickle
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka import TopicPartition

from support.kafka_clients import UnconnectedConsumer, plain_record
from support.ring_reader import current, offsets

ORDERS = TopicPartition("orders", 0)


def names(spans: list[Any]) -> list[tuple[str, int]]:
    """Return what was done with which record: the operation and the offset of each span."""
    return [
        (span.tags["messaging.operation.name"], offset)
        for span, offset in zip(spans, offsets(spans), strict=True)
    ]


def test_poll_returns_what_it_returns_without_kaspan(application: Any) -> None:
    """The same partitions, with lists of the same records."""
    fields = {"timestamp": 1_700_000_000_000}
    plain = UnconnectedConsumer([plain_record(0, **fields), plain_record(5, partition=1, **fields)]).poll()
    traced = application.consumer(
        [application.record(0, **fields), application.record(5, partition=1, **fields)]
    ).poll()

    assert traced == plain
    assert type(traced) is type(plain)
    assert all(isinstance(records, list) for records in traced.values())
    assert repr(traced) == repr(plain)


def test_empty_poll_makes_no_span(application: Any) -> None:
    """A poll that finds nothing returns what it returns without kaspan, and says nothing."""
    consumer = application.consumer()

    assert [consumer.poll(), consumer.poll(timeout_ms=0), consumer.poll(0, 5)] == [{}, {}, {}]
    assert application.take() == []


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {"timeout_ms": -1}),
        ((0, 0), {}),
        ((0, "many"), {}),
        ((), {"colour": "red"}),
        ((0, 1, True, 4), {}),
    ],
)
def test_wrong_arguments_of_poll_are_refused_as_without_kaspan(
    application: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """A call that is wrong raises what it raised before."""

    def outcome(consumer: Any) -> Any:
        try:
            return consumer.poll(*args, **kwargs)
        except Exception as error:  # noqa: BLE001
            return type(error), str(error)

    assert outcome(application.consumer()) == outcome(UnconnectedConsumer())


def test_loop_over_polled_records_processes_each(application: Any) -> None:
    """In the loop's body the record's span is current, and it ends when the next one is asked for."""
    seen = []
    for records in application.consumer(application.records(3)).poll().values():
        for record in records:
            seen.append((record.offset, current()))
            assert offsets(application.take()) == ([record.offset - 1] if record.offset else [])

    (last,) = application.take()

    assert current() is None
    assert seen[-1] == (2, (last.trace_id, last.id))
    assert last.name == "process orders"


def test_nested_loops_over_partitions_process_each_record_once(application: Any) -> None:
    """The usual two loops, over partitions and over records, make one process span for each record."""
    batch = [application.record(at, partition=at % 3) for at in range(9)]
    for partition, records in application.consumer(batch).poll().items():
        for record in records:
            assert current() is not None
            assert record.partition == partition.partition

    spans = application.take()

    assert sorted(names(spans)) == [("process", at) for at in range(9)]


def test_one_loop_in_another_restores_the_outer_record(application: Any) -> None:
    """In the inner body the inner record is current, after the inner loop the outer one again."""
    polled = application.consumer(
        [application.record(0), application.record(1, partition=1), application.record(2, partition=1)]
    ).poll()
    outer, inner = polled[ORDERS], polled[TopicPartition("orders", 1)]
    for _ in outer:
        outer_span = current()
        for _ in inner:
            assert current() != outer_span
        assert current() == outer_span

    assert sorted(names(application.take())) == [("process", 0), ("process", 1), ("process", 2)]


def test_loop_over_the_same_list_twice_makes_no_second_span(application: Any) -> None:
    """A second loop makes the record's span current again, and it is reported once."""
    (records,) = application.consumer(application.records(2)).poll().values()
    first = [current() for _ in records]
    second = [current() for _ in records]

    assert second == first
    assert None not in first
    assert names(application.take()) == [("process", 0), ("process", 1)]


@pytest.mark.parametrize("leave", ["break", "return", "exception"])
def test_loop_left_early_ends_its_span_and_settles_the_rest_at_the_next_poll(
    application: Any, leave: str
) -> None:
    """What the loop worked on is processed, what it never reached was only polled; each has one span."""
    consumer = application.consumer(application.records(4))
    polled = consumer.poll()

    def work() -> None:
        for record in polled[ORDERS]:
            if record.offset == 1 and leave == "return":
                return
            if record.offset == 1 and leave == "exception":
                raise LookupError
            if record.offset == 1:
                break

    if leave == "exception":
        with pytest.raises(LookupError):
            work()
    else:
        work()

    assert current() is None
    assert names(application.take()) == [("process", 0), ("process", 1)]
    consumer.poll()
    assert names(application.take()) == [("poll", 2), ("poll", 3)]


def test_records_that_nobody_looks_at_are_spans_once_they_are_dropped(configured: Any) -> None:
    """A list that goes away unread gives each of its records a poll span."""
    application = configured()
    application.consumer(application.records(3)).poll()
    gc.collect()

    assert names(application.take()) == [("poll", 0), ("poll", 1), ("poll", 2)]


def test_records_that_nobody_looks_at_are_spans_once_the_consumer_closes(application: Any) -> None:
    """Closing the consumer settles what poll() has returned."""
    consumer = application.consumer(application.records(2))
    polled = consumer.poll()
    consumer.close()

    assert names(application.take()) == [("poll", 0), ("poll", 1)]
    assert len(polled[ORDERS]) == 2


def test_loop_after_the_next_poll_makes_no_second_span(application: Any) -> None:
    """Records kept for later are settled by the next poll; a loop over them then has their span current."""
    consumer = application.consumer(application.records(2))
    (kept,) = consumer.poll().values()
    consumer.poll()
    polled = application.take()

    seen = [current() for _ in kept]

    assert names(polled) == [("poll", 0), ("poll", 1)]
    assert seen == [(span.trace_id, span.id) for span in polled]
    assert application.take() == []


def test_poll_while_a_list_is_looped_over_leaves_the_list_alone(application: Any) -> None:
    """Who polls paused partitions in the body, to stay in the group, has a process span for each record."""
    consumer = application.consumer(application.records(3), [], [], [application.record(3)])
    for record in consumer.poll()[ORDERS]:
        assert record is not None
        work = current()
        consumer.poll()
        assert current() == work

    assert [one for one in names(application.take()) if one[1] < 3] == [("process", at) for at in range(3)]


def test_poll_while_a_worker_loops_over_a_list_leaves_the_list_alone(application: Any) -> None:
    """The same where the loop is in a thread of its own, and the main one polls."""
    consumer = application.consumer(application.records(3))
    (records,) = consumer.poll().values()
    turns = threading.Barrier(2, timeout=30)

    def work() -> None:
        for _ in records:
            turns.wait()
            turns.wait()

    worker = threading.Thread(target=work)
    worker.start()
    for _ in range(3):
        turns.wait()
        assert consumer.poll() == {}
        turns.wait()
    worker.join()

    assert names(application.take()) == [("process", at) for at in range(3)]


def test_loop_left_early_is_settled_though_the_consumer_polled_meanwhile(application: Any) -> None:
    """What the loop has not reached gets its spans with the next poll after the loop."""
    consumer = application.consumer(application.records(3))
    polled = consumer.poll()
    for _ in polled[ORDERS]:
        consumer.poll()
        break
    assert names(application.take()) == [("process", 0)]

    consumer.poll()

    assert names(application.take()) == [("poll", 1), ("poll", 2)]


def test_poll_span_has_the_context_of_the_record(application: Any) -> None:
    """A record taken by index has a span of 1 us, under its sender's and with the tags of any other."""
    context = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"
    (records,) = application.consumer([application.record(headers=[("b3", context)])]).poll().values()

    assert records[0].offset == 0

    (span,) = application.take()
    assert (span.name, span.kind, span.duration) == ("poll orders", "CONSUMER", 1)
    assert (span.trace_id, span.parent_id) == ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312")
    assert span.tags["messaging.consumer.group.name"] == "depot"


USES: dict[str, Any] = {
    "index": lambda records: [records[at] for at in range(len(records))],
    "index from the end": lambda records: [records[-1 - at] for at in range(len(records))],
    "slice": lambda records: records[:],
    "slice with a step": lambda records: records[::-1],
    "two slices": lambda records: records[:2] + records[2:],
    "pop": lambda records: [records.pop() for _ in range(len(records))],
    "pop from the front": lambda records: [records.pop(0) for _ in range(len(records))],
    "list": list,
    "tuple": tuple,
    "copy": lambda records: records.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "sorted": lambda records: sorted(records, key=lambda record: -record.offset),
    "sort": lambda records: records.sort(key=lambda record: -record.offset),
    "reversed": lambda records: list(reversed(records)),
    "reverse": lambda records: records.reverse(),
    "map": lambda records: [*map(id, records)],
    "comprehension": lambda records: [record.value for record in records],
    "unpacking": lambda records: print(*records, file=io.StringIO()),
    "enumerate": lambda records: [*enumerate(records)],
    "zip": lambda records: [*zip(records, itertools.count(), strict=False)],
    "chain": lambda records: [*itertools.chain(records, records)],
    "extend": lambda records: [*records, *records],
    "plus": lambda records: [] + records,  # noqa: RUF005
    "plus from the left": lambda records: records + [],  # noqa: RUF005
    "times": lambda records: records * 2,
    "in": lambda records: None in records,
    "count": lambda records: records.count(None),
    "index of": lambda records: records.index(records[-1]),
    "max": lambda records: max(records, key=lambda record: record.offset),
    "iterator by hand": lambda records: [next(it) for it in [iter(records)] for _ in range(4)],
    "del": lambda records: records.__delitem__(slice(None)),
    "del of some": lambda records: records.__delitem__(0),
    "clear": lambda records: records.clear(),
    "remove": lambda records: records.remove(tuple(list.__getitem__(records, 1))),
    "remove what is not there": lambda records: records.remove(None),
    "index out of range": lambda records: records[4],
    "pop out of range": lambda records: records.pop(4),
    "pop of too many": lambda records: [records.pop() for _ in range(5)],
    "del out of range": lambda records: records.__delitem__(4),
    "set out of range": lambda records: records.__setitem__(4, None),
    "a word for an index": lambda records: records["first"],
    "del of a word": lambda records: records.__delitem__("first"),
    "set of a slice to no list": lambda records: records.__setitem__(slice(0, 2), None),
    "set item": lambda records: records.__setitem__(0, None),
    "set slice": lambda records: records.__setitem__(slice(None), []),
    "append": lambda records: records.append(None),
    "insert": lambda records: records.insert(0, None),
    "json": lambda records: json.dumps([record.offset for record in records]),
    "equality": lambda records: records == [],
    "truth": bool,
    "length": len,
    "repr": repr,
    "nothing": lambda records: None,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_way_of_using_a_list_is_one_span_for_each_record(configured: Any, use: Any) -> None:
    """However records are taken out of what poll() returned, each has exactly one span in the end."""
    application = configured()
    consumer = application.consumer(application.records(4))
    (records,) = consumer.poll().values()
    result = None
    with contextlib.suppress(ValueError, IndexError, TypeError):
        result = use(records)
    consumer.poll()
    consumer.close()
    del result, records
    gc.collect()

    assert Counter(offsets(application.take())) == Counter(range(4))


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_every_way_of_using_a_list_gives_what_it_gives_without_kaspan(application: Any, use: Any) -> None:
    """A list of records answers as the plain list does, and is left as the plain list is."""

    def outcome(records: Any) -> Any:
        try:
            result = use(records)
        except Exception as error:  # noqa: BLE001
            result = type(error), str(error)
        if isinstance(result, list) and result and isinstance(result[0], int):
            result = len(result)  # map(id): of other objects
        return result, records

    fields = {"timestamp": 1_700_000_000_000}
    (traced,) = application.consumer(application.records(4, **fields)).poll().values()
    (plain,) = UnconnectedConsumer([plain_record(at, **fields) for at in range(4)]).poll().values()

    assert outcome(traced) == outcome(plain)


ITEMS = st.lists(st.tuples(st.sampled_from(sorted(USES)), st.booleans()), min_size=1, max_size=4)


@given(ITEMS, st.integers(1, 5), st.booleans())
@settings(max_examples=60)
def test_any_sequence_of_uses_is_one_span_for_each_record(
    application: Any, uses: list[tuple[str, bool]], count: int, poll_between: bool
) -> None:
    """Whatever is done with the lists, in whatever order, no record is a span twice or never."""
    consumer = application.consumer(application.records(count))
    polled = consumer.poll()
    kept: list[Any] = []
    for use, keep in uses:
        try:
            result = USES[use](polled[ORDERS])
        except (IndexError, ValueError, AttributeError, TypeError, StopIteration):
            result = None
        kept += [result] if keep else []
        if poll_between:
            consumer.poll()
    consumer.close()
    del polled, kept

    assert Counter(offsets(application.take())) == Counter(range(count))


def test_records_handed_to_threads_are_one_span_each(application: Any) -> None:
    """A pool's map takes the records out in the caller's thread; each has one span."""
    (records,) = application.consumer(application.records(20)).poll().values()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda record: record.offset, records))

    assert done == list(range(20))
    assert Counter(offsets(application.take())) == Counter(range(20))
    assert current() is None


def test_slices_handed_to_threads_are_one_span_for_each_record(application: Any) -> None:
    """Parts of a list worked on in several threads at the same time are one span for each record."""
    (records,) = application.consumer(application.records(40)).poll().values()

    def work(part: list[Any]) -> list[int]:
        return [record.offset for record in part]

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(work, [records[at : at + 10] for at in range(0, 40, 10)]))

    assert [*itertools.chain(*done)] == list(range(40))
    assert Counter(offsets(application.take())) == Counter(range(40))


def test_one_list_looped_over_by_many_threads_is_one_span_for_each_record(application: Any) -> None:
    """Even when threads loop over one list at once, no record is a span twice."""
    (records,) = application.consumer(application.records(50)).poll().values()
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: [record.offset for record in records], range(4)))

    assert done == [list(range(50))] * 4
    assert Counter(offsets(application.take())) == Counter(range(50))


def test_record_stays_current_over_await(application: Any) -> None:
    """In a coroutine that loops over polled records the current span is the record's after an await too."""
    (records,) = application.consumer(application.records(3)).poll().values()
    seen = []

    async def other() -> None:
        for _ in range(6):
            await asyncio.sleep(0)
            assert current() is None

    async def work() -> None:
        for _ in records:
            before = current()
            await asyncio.sleep(0)
            seen.append((before, current()))

    async def main() -> None:
        await asyncio.gather(work(), other())

    asyncio.run(main())

    spans = [(span.trace_id, span.id) for span in application.take()]
    assert seen == list(zip(spans, spans, strict=True))
    assert current() is None


def test_list_pickles_as_the_plain_list(application: Any) -> None:
    """What goes to another process is a list of records and nothing of kaspan's."""
    (records,) = application.consumer([application.record()]).poll().values()
    records[0] = b"anything"

    assert pickle.loads(pickle.dumps(records)) == [b"anything"]  # noqa: S301
    assert type(pickle.loads(pickle.dumps(records))) is list  # noqa: S301


def test_poll_ends_the_span_of_the_record_before(application: Any) -> None:
    """An application that mixes next() and poll() has one span for each record."""
    consumer = application.consumer(application.records(1), [application.record(1)])
    next(consumer)
    polled = consumer.poll()

    assert current() is None
    assert names(application.take()) == [("process", 0)]
    assert [record.offset for record in polled[ORDERS]] == [1]
    assert names(application.take()) == [("process", 1)]


def test_list_outlives_its_consumer(configured: Any) -> None:
    """Records may be worked on after the consumer is gone."""
    application = configured()
    consumer = application.consumer(application.records(2))
    polled = consumer.poll()
    del consumer
    gc.collect()

    assert [record.offset for records in polled.values() for record in records] == [0, 1]
    assert names(application.take()) == [("process", 0), ("process", 1)]


def test_unsampled_records_make_no_span(configured: Any) -> None:
    """At rate 0 polled records say nothing, however they are used."""
    application = configured(sampling__rate=0.0)
    consumer = application.consumer(application.records(4))
    (records,) = consumer.poll().values()
    assert records[0].offset == 0
    for _ in records:
        break
    consumer.close()

    assert application.take() == []


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


def test_threads_that_switch_at_any_moment_make_one_span_for_each_record(application: Any) -> None:
    """Even when threads that loop over one list are switched every microsecond, no record is a span twice."""
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
