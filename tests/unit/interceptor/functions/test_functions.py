"""A traced function runs in the trace of the record it is given, wherever it runs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, StatusCode

from kaspan.interceptor import next_span, process, traced
from kaspan.interceptor.functions.decorators import follow_calls
from kaspan.interceptor.functions.spans import FunctionSpans
from support.ring_reader import Span, current

TRACE = "463ac35c9f6413ad48485a3953bb6124"
SENDER = "a2fb4a1d1a96d312"
SENT = [("b3", f"{TRACE}-{SENDER}-1".encode())]
UNSAMPLED = [("b3", f"{TRACE}-{SENDER}-0".encode())]


@pytest.fixture(autouse=True)
def followed(application: Any) -> Iterator[None]:
    """Switch the tracing of calls on, as the application's start does."""
    follow_calls(FunctionSpans(application.tracing))
    yield
    follow_calls(None)


def by_name(spans: list[Span]) -> dict[str, Span]:
    """Return the spans by their names, of which none comes twice."""
    named = {span.name or "": span for span in spans}
    assert len(named) == len(spans), spans
    return named


@traced("parse")
def parse(*args: Any, **kwargs: Any) -> tuple[str, str] | None:
    """Return the span that is current inside."""
    return current()


@traced("aparse")
async def aparse(record: Any) -> tuple[str, str] | None:
    await asyncio.sleep(0)
    return current()


@traced("split")
def split(record: Any) -> Iterator[tuple[str, str] | None]:
    yield current()
    yield current()


@traced("asplit")
async def asplit(record: Any) -> Any:
    yield current()
    await asyncio.sleep(0)
    yield current()


async def collect(generator: Any) -> list[Any]:
    return [one async for one in generator]


KINDS: dict[str, tuple[str, Callable[[Any], list[Any]]]] = {
    "function": ("parse", lambda record: [parse(record)]),
    "coroutine": ("aparse", lambda record: [asyncio.run(aparse(record))]),
    "generator": ("split", lambda record: list(split(record))),
    "async generator": ("asplit", lambda record: asyncio.run(collect(asplit(record)))),
}


@pytest.mark.parametrize(("name", "call"), KINDS.values(), ids=KINDS.keys())
def test_call_in_the_loop_is_a_span_under_the_records(application: Any, name: str, call: Any) -> None:
    """A function of any kind is a span without a kind under the record's, current while it runs."""
    for record in application.consumer([application.record(headers=SENT)]):
        inside = call(record)
        assert current() == (TRACE, f"{record.kaspan_span.span_id.decode()}")

    spans = by_name(application.take())
    span, processed = spans[name], spans["process orders"]

    assert (span.trace_id, span.parent_id, span.kind) == (TRACE, processed.id, None)
    assert set(inside) == {(TRACE, span.id)}
    assert span.remote_endpoint is None
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "shop"
    assert span.tags["code.function.name"].endswith(f"test_functions.{name}")


ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "alone": parse,
    "second": lambda record: parse(1, record),
    "by name": lambda record: parse("x", None, order=record),
    "with others of its kind": lambda record: parse([], {}, (), record),
}


@pytest.mark.parametrize("call", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_record_is_found_in_any_argument(application: Any, call: Any) -> None:
    """The record may be any argument, positional or by name."""
    (record,) = application.consumer([application.record(headers=SENT)])
    call(record)

    spans = by_name(application.take())

    assert spans["parse"].parent_id == spans["process orders"].id


@pytest.mark.parametrize(("name", "call"), KINDS.values(), ids=KINDS.keys())
def test_call_in_a_thread_belongs_to_its_record(application: Any, name: str, call: Any) -> None:
    """A record handed to a thread, whose own span has ended meanwhile, is still the parent there."""
    with ThreadPoolExecutor(4) as pool:
        records = list(application.consumer(application.records(8)))
        inside = list(pool.map(call, records))

    spans = application.take()
    processed = {(span.trace_id, span.id) for span in spans if span.kind == "CONSUMER"}
    calls = [span for span in spans if span.name == name]

    assert len(processed) == len({trace_id for trace_id, _ in processed}) == 8
    assert {(span.trace_id, span.parent_id) for span in calls} == processed
    assert {(span.trace_id, span.id) for span in calls} == {one for seen in inside for one in seen}


def test_calls_of_several_records_at_once_in_one_event_loop_do_not_mix(application: Any) -> None:
    """Tasks that take turns each see their own record's span."""
    gate: Any = None

    @traced("handle")
    async def handle(record: Any) -> tuple[str, str] | None:
        await gate.wait()
        inner = await aparse(record)
        assert inner is not None
        assert inner[0] == record.kaspan_span.trace_id.decode()
        return current()

    async def main(records: list[Any]) -> list[Any]:
        nonlocal gate
        gate = asyncio.Barrier(5) if hasattr(asyncio, "Barrier") else asyncio.Event()
        if isinstance(gate, asyncio.Event):
            gate.set()
        return await asyncio.gather(*map(handle, records))

    records = list(application.consumer(application.records(5)))
    inside = asyncio.run(main(records))

    calls = {span.trace_id: span for span in application.take() if span.name == "handle"}
    for record, seen in zip(records, inside, strict=True):
        span = calls[record.kaspan_span.trace_id.decode()]
        assert seen == (span.trace_id, span.id)
        assert span.parent_id == record.kaspan_span.span_id.decode()


def test_calls_within_calls_nest(application: Any) -> None:
    """A function called by a function that works on the same record is under that one."""

    @traced("handle")
    def handle(record: Any) -> None:
        parse(record)
        parse_price(5)

    @traced("price")
    def parse_price(price: int) -> None:
        pass

    (record,) = application.consumer([application.record()])
    threading_run(handle, record)

    spans = by_name(application.take())

    assert spans["handle"].parent_id == spans["process orders"].id
    assert spans["parse"].parent_id == spans["price"].parent_id == spans["handle"].id


def threading_run(function: Any, *args: Any) -> None:
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


def test_call_within_a_span_of_the_applications_is_under_it(application: Any) -> None:
    """Where the application has opened a span of its own in the record's trace, the call is in that one."""
    provider = TracerProvider()
    for record in application.consumer([application.record()]):
        with provider.get_tracer("hand").start_as_current_span("pack") as pack:
            parse(record)
    provider.shutdown()

    assert by_name(application.take())["parse"].parent_id == f"{pack.get_span_context().span_id:016x}"


def test_call_with_another_record_belongs_to_that_one(application: Any) -> None:
    """A record kept from before takes its own trace into the loop over another one."""
    kept: list[Any] = []
    for record in application.consumer(application.records(2)):
        kept.append(record)
        if len(kept) == 2:
            parse(kept[0])

    first, called, second = application.take()

    assert (called.name, called.trace_id, called.parent_id) == ("parse", first.trace_id, first.id)
    assert second.trace_id != first.trace_id


def test_call_with_another_record_of_the_same_trace_belongs_to_that_one(application: Any) -> None:
    """Records of one trace are told apart by their spans, not by the trace."""
    kept: list[Any] = []
    for record in application.consumer(application.records(2, headers=SENT)):
        kept.append(record)
        if len(kept) == 2:
            parse(kept[0])

    first, called, _ = application.take()

    assert called.parent_id == first.id


def test_join_of_two_records_is_under_the_one_in_work(application: Any) -> None:
    """Of several records in the arguments, the one that is being worked on is the parent, else the first."""
    consumer = application.consumer(application.records(3))
    first, second, third = [next(consumer) for _ in range(3)]
    parse(first, third)
    parse(second, first)
    consumer.close()

    spans = application.take()
    calls = [span.parent_id for span in spans if span.name == "parse"]

    assert calls == [third.kaspan_span.span_id.decode(), second.kaspan_span.span_id.decode()]


def test_join_names_the_traces_of_its_other_records(application: Any) -> None:
    """Of all records that a function is given, one by one or in lists, those of other traces are named."""
    consumer = application.consumer(application.records(5))
    records = [next(consumer) for _ in range(5)]
    consumer.close()
    parse(records[0], records[1])
    parse(records[0], records[2:4])
    parse([records[4]], records[0])

    calls = [span.tags for span in application.take() if span.name == "parse"]

    traces = [record.kaspan_span.trace_id.decode() for record in records]
    assert [tags.get("kafka.batch.trace_ids") for tags in calls] == [
        traces[1],
        ",".join(traces[2:4]),
        traces[0],
    ]
    assert [tags.get("messaging.batch.message_count") for tags in calls] == [None, None, "1"]


def test_call_without_a_record_is_under_the_current_span(application: Any) -> None:
    """A function that is given no record is part of what is being done."""
    for _ in application.consumer([application.record()]):
        parse(1, "two")

    spans = by_name(application.take())

    assert spans["parse"].parent_id == spans["process orders"].id


def test_call_without_a_record_and_outside_of_any_span_begins_a_trace(application: Any) -> None:
    """Nothing around it and no record: a trace of its own, which what it sends belongs to."""
    producer = application.producer()

    @traced("tick")
    def tick() -> None:
        producer.send("orders", b"value")

    tick()
    producer.last.acknowledge()
    spans = by_name(application.take())

    assert spans["tick"].parent_id is None
    assert spans["send orders"].parent_id == spans["tick"].id
    assert current() is None


def test_send_in_a_call_elsewhere_is_its_child(application: Any) -> None:
    """What a function sends in another thread continues the record's trace."""
    producer = application.producer()

    @traced("handle")
    def handle(record: Any) -> None:
        producer.send("shipments", record.value)

    (record,) = application.consumer([application.record(headers=SENT)])
    threading_run(handle, record)
    producer.last.acknowledge()
    spans = by_name(application.take())

    assert spans["send shipments"].trace_id == TRACE
    assert spans["send shipments"].parent_id == spans["handle"].id


def test_call_with_a_record_from_another_process_goes_on_with_its_sender(application: Any) -> None:
    """A record that has lost its span, as pickling does, still says in its headers whose trace it is."""
    parse(application.record(headers=SENT))

    (span,) = application.take()

    assert (span.trace_id, span.parent_id) == (TRACE, SENDER)


def test_call_with_an_unsampled_record_is_not_recorded_and_passes_that_on(application: Any) -> None:
    """Nothing is recorded in a trace that is not sampled, and what is sent says so."""
    producer = application.producer()

    @traced("handle")
    def handle(record: Any) -> None:
        producer.send("shipments", b"value")
        parse(record)
        parse()

    (record,) = application.consumer([application.record(headers=UNSAMPLED)])
    threading_run(handle, record)
    producer.last.acknowledge()

    assert application.take() == []
    (b3,) = [value for key, value in producer.last.headers if key == "b3"]
    assert b3.startswith(TRACE.encode())
    assert b3.endswith(b"-0")


def test_call_with_a_record_of_an_excluded_topic_is_not_recorded(configured: Any) -> None:
    """Of an excluded topic nothing is recorded, but what is sent still belongs to the sender's trace."""
    application = configured(exclude_topics="[secret]")
    follow_calls(FunctionSpans(application.tracing))
    producer = application.producer()

    @traced("handle")
    def handle(record: Any) -> None:
        parse(record)
        producer.send("orders", b"value")

    records = list(application.consumer([application.record(topic="secret", headers=SENT)]))
    threading_run(handle, records[0])
    producer.last.acknowledge()

    (sent,) = application.take()
    assert (sent.name, sent.trace_id, sent.parent_id) == ("send orders", TRACE, SENDER)


def test_root_call_is_sampled_by_rate(configured: Any) -> None:
    """A trace that begins with a function is recorded at the rate, and what is inside keeps the decision."""
    application = configured(sampling__rate=0.0, sampling__rules='[{topic: "*", rate: 1.0}]')
    follow_calls(FunctionSpans(application.tracing))
    producer = application.producer()

    @traced("tick")
    def tick() -> None:
        parse()
        producer.send("orders", b"value")

    tick()
    producer.last.acknowledge()

    assert application.take() == []
    assert producer.last.headers[0][1].endswith(b"-0")


def test_error_marks_the_span_and_goes_on_unchanged(application: Any) -> None:
    """An exception is on the span with its message and type, and reaches the caller as it was."""
    error = LookupError("no such order")

    @traced("handle")
    def handle(record: Any) -> None:
        raise error

    (record,) = application.consumer([application.record()])
    with pytest.raises(LookupError) as raised:
        handle(record)

    span = by_name(application.take())["handle"]
    assert raised.value is error
    assert error.__context__ is None
    assert (span.tags["error"], span.tags["error.type"]) == ("no such order", "LookupError")


RAISING: dict[str, Callable[[], Any]] = {}


def raising(function: Any) -> Any:
    RAISING[function.__name__] = function
    return function


@raising
def coroutine() -> Any:
    @traced("handle")
    async def handle() -> None:
        raise LookupError("no")

    return asyncio.run(handle())


@raising
def generator() -> Any:
    @traced("handle")
    def handle() -> Iterator[int]:
        yield 1
        raise LookupError("no")

    return list(handle())


@raising
def async_generator() -> Any:
    @traced("handle")
    async def handle() -> Any:
        yield 1
        raise LookupError("no")

    return asyncio.run(collect(handle()))


@raising
def thrown_into_a_generator() -> Any:
    @traced("handle")
    def handle() -> Iterator[int]:
        yield 1

    started: Any = handle()
    next(started)
    return started.throw(LookupError("no"))


@pytest.mark.parametrize("call", RAISING.values(), ids=RAISING.keys())
def test_error_of_every_kind_of_function_marks_its_span(application: Any, call: Any) -> None:
    """Coroutines and generators fail as functions do."""
    with pytest.raises(LookupError, match="no"):
        call()

    (span,) = application.take()
    assert (span.tags["error"], span.tags["error.type"]) == ("no", "LookupError")
    assert current() is None


def test_exit_is_no_error(application: Any) -> None:
    """What is not an Exception, such as SystemExit or a cancellation, ends the span and does not mark it."""

    @traced("handle")
    async def handle() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(handle())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())

    (span,) = application.take()
    assert "error" not in span.tags


def test_error_text_of_the_application_is_kept(application: Any) -> None:
    """Where the application has said itself what went wrong, its words stay."""

    @traced("handle")
    def handle() -> None:
        trace.get_current_span().set_status(StatusCode.ERROR, "out of stock")
        raise LookupError("no such order")

    with pytest.raises(LookupError):
        handle()

    assert application.take()[0].tags["error"] == "out of stock"


def test_tags_set_in_a_function_are_kept(application: Any) -> None:
    """The current span inside is the function's: tags, events and a name set on it are its own."""

    @traced("handle")
    def handle() -> None:
        span = trace.get_current_span()
        span.set_attribute("order.state", "packed")
        span.set_attribute("code.function.name", "mine")
        span.add_event("sealed")
        span.update_name('pack "it" 100%')

    handle()

    (span,) = application.take()
    assert span.name == 'pack "it" 100%'
    assert span.tags == {"order.state": "packed", "code.function.name": "mine"}
    assert [one.value for one in span.annotations] == ["sealed"]


def test_span_of_a_generator_lasts_until_it_is_done_and_is_current_only_inside(application: Any) -> None:
    """Between two values the caller has its own current span back; dropping the generator ends its span."""
    for record in application.consumer([application.record()]):
        outer = current()
        started = split(record)
        assert current() == outer
        inside = next(started)
        assert inside != outer
        assert current() == outer
        assert "split" not in {span.name for span in application.take()}
        started.close()
        assert [span.name for span in application.take()] == ["split"]


def test_generator_takes_and_returns_what_it_did(application: Any) -> None:
    """send(), throw() and the returned value go through a traced generator."""

    @traced("echo")
    def echo() -> Any:
        received = []
        while True:
            try:
                value = yield len(received)
            except KeyError:
                return received
            received.append(value)

    running = echo()
    assert [next(running), running.send("a"), running.send("b")] == [0, 1, 2]
    with pytest.raises(StopIteration) as stopped:
        running.throw(KeyError())

    assert stopped.value.value == ["a", "b"]
    assert "error" not in application.take()[0].tags


def test_generator_around_a_consumer_leaves_its_records_current(application: Any) -> None:
    """A traced generator that loops over a consumer hands out records whose spans are current."""

    @traced("orders")
    def orders(consumer: Any) -> Iterator[Any]:
        yield from consumer

    seen = [current() for _ in orders(application.consumer(application.records(3)))]

    processed = [(span.trace_id, span.id) for span in application.take() if span.kind == "CONSUMER"]
    assert seen == processed
    assert current() is None


def test_context_of_the_application_is_kept_around_a_call(application: Any) -> None:
    """What a function leaves in context variables of the application's own stays as it would."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("mine", default=0)

    @traced("handle")
    def handle() -> None:
        variable.set(variable.get() + 1)

    handle()
    handle()

    assert variable.get() == 2


def batch_of(application: Any, *records: Any) -> Any:
    return application.consumer(list(records)).poll()


def own_header(number: int) -> list[tuple[str, bytes]]:
    return [("b3", b"%032x-%016x-1" % (number, number))]


def test_lazy_object_is_not_evaluated(application: Any) -> None:
    """A lazy object, such as Django's, loads its target when asked for its class: kaspan never asks."""

    class Lazy:
        @property  # type: ignore[misc]
        def __class__(self) -> Any:
            raise LookupError("evaluated")

    lazy: Any = Lazy()
    call = traced("call")(lambda *args, **kwargs: "result")

    assert call(lazy, [lazy], {"lazy": lazy}, (lazy,), named=lazy) == "result"
    assert [span.name for span in application.take()] == ["call"]


def test_batch_is_one_span_in_the_first_records_trace(application: Any) -> None:
    """A list of records gets one span, with their number and the ids of the other traces, each once."""
    records = [application.record(n, headers=own_header(1 + n // 2)) for n in range(6)]
    ((partition, batch),) = batch_of(application, *records).items()
    parse(batch, partition)

    (span,) = [span for span in application.take() if span.name == "parse"]

    assert (span.trace_id, span.parent_id) == (f"{1:032x}", f"{1:016x}")
    assert span.tags["messaging.batch.message_count"] == "6"
    assert span.tags["kafka.batch.trace_ids"] == f"{2:032x},{3:032x}"


def test_batch_names_at_most_ten_other_traces(application: Any) -> None:
    """A batch of many traces is in the first record's trace, and names the next ten."""
    records = [application.record(n, headers=own_header(n + 1)) for n in range(100)]
    parse(list(application.consumer(records)))

    (span,) = [span for span in application.take() if span.name == "parse"]

    assert span.tags["messaging.batch.message_count"] == "100"
    assert span.tags["kafka.batch.trace_ids"].split(",") == [f"{n:032x}" for n in range(2, 12)]


def test_batch_of_one_trace_names_no_other(application: Any) -> None:
    """Where all records are of one trace there is nothing to name."""
    parse(tuple(application.consumer(application.records(3, headers=SENT))))

    (span,) = [span for span in application.take() if span.name == "parse"]

    assert "kafka.batch.trace_ids" not in span.tags
    assert span.tags["messaging.batch.message_count"] == "3"


def test_dict_of_lists_is_a_batch(application: Any) -> None:
    """What poll() returned, handed on whole, is one batch over all partitions."""
    records = [application.record(n, partition=n % 2, headers=own_header(n + 1)) for n in range(5)]
    parse(batch_of(application, *records))

    (span,) = [span for span in application.take() if span.name == "parse"]

    assert span.tags["messaging.batch.message_count"] == "5"
    assert len(span.tags["kafka.batch.trace_ids"].split(",")) == 4


def test_batch_handed_on_still_gets_a_process_span_for_each_record(application: Any) -> None:
    """Looking for records in an argument does not count as their processing: the function's loop does."""

    @traced("handle")
    def handle(polled: Any) -> None:
        for records in polled.values():
            for record in records:
                parse(record)

    handle(batch_of(application, *application.records(3)))

    spans = application.take()
    processed = [span for span in spans if span.kind == "CONSUMER"]
    assert [span.name for span in processed] == ["process orders"] * 3
    assert {span.parent_id for span in spans if span.name == "parse"} == {span.id for span in processed}


def test_collections_without_records_are_no_batch(application: Any) -> None:
    """Lists, tuples and dicts of other things are arguments like any other."""
    for value in ([], [1], (), {}, {"a": []}, {"a": [1]}, {"a": 1}, [[]], "text", None):
        parse(value)

    spans = application.take()
    assert len(spans) == 10
    assert not any("messaging.batch.message_count" in span.tags for span in spans)


def test_arguments_are_not_asked_anything(application: Any) -> None:
    """An object that answers every question, or fails at every one, is passed as it is."""

    class Touchy:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

        __iter__ = __len__ = __bool__ = __eq__ = __hash__ = __getattr__  # type: ignore[assignment]

    parse(Touchy(), also=Touchy())

    assert [span.name for span in application.take()] == ["parse"]


def test_process_runs_a_block_in_the_records_trace(application: Any) -> None:
    """process(record) is a span of the topic's name under the record's, current in the block."""
    (record,) = application.consumer([application.record(headers=SENT)])
    with process(record) as span:
        span.set_attribute("order.state", "packed")
        inside = current()
    with pytest.raises(LookupError), process(record, "pack"):
        raise LookupError("no such order")

    consumed, processed, packed = application.take()

    assert inside == (TRACE, processed.id)
    assert (processed.name, processed.kind, processed.parent_id) == ("process orders", None, consumed.id)
    assert processed.tags == {"order.state": "packed"}
    assert (packed.name, packed.parent_id, packed.tags["error"]) == ("pack", consumed.id, "no such order")
    assert current() is None


def test_process_takes_a_batch(application: Any) -> None:
    """process(records) is one span for the batch."""
    with process(batch_of(application, *application.records(2))):
        pass

    assert application.take()[0].tags["messaging.batch.message_count"] == "2"


def test_next_span_is_reported_when_it_is_ended(application: Any) -> None:
    """next_span(record) is a span under the record's, not current, reported once, by its end()."""
    (record,) = application.consumer([application.record(headers=SENT)])
    application.take()
    span = next_span(record, "pack")
    assert current() is None
    assert span.is_recording()
    span.set_attribute("boxes", 2)
    with trace.use_span(span):
        parse(record)
    assert [one.name for one in application.take()] == ["parse"]
    span.end()
    span.end()

    (packed,) = application.take()

    assert (packed.name, packed.trace_id, packed.tags["boxes"]) == ("pack", TRACE, "2")
    assert packed.parent_id == record.kaspan_span.span_id.decode()
    assert not span.is_recording()


def test_next_span_is_of_its_record_in_all_that_can_be_read(application: Any) -> None:
    """It is recorded whatever the rate where its trace is debugged, and shows name, kind and parent."""
    debugged = [("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-d")]
    for record in application.consumer([application.record(headers=debugged)]):
        span: Any = next_span(record, "pack")
        shown = (span.name, span.kind, span.parent.span_id, span.resource.attributes["service.name"])
        here = trace.get_current_span().get_span_context()
        assert shown == ("pack", SpanKind.INTERNAL, here.span_id, "shop")
        assert (span.attributes, span.start_time > 0, span.debug) == ({}, True, True)
        span.end()

    assert [one.debug for one in application.take()] == [True, True]


def test_next_span_takes_the_time_of_its_end(application: Any) -> None:
    """end() may be told when, in nanoseconds, as OpenTelemetry's."""
    span = next_span(application.record(), "pack")
    span.end(2_000_000_000_000_000_000)

    (packed,) = application.take()
    assert packed.timestamp + packed.duration == 2_000_000_000_000_000


def test_next_span_of_an_unsampled_record_does_nothing(application: Any) -> None:
    """A span in a trace that is not sampled passes its context on and is not reported."""
    span = next_span(application.record(headers=UNSAMPLED))
    span.end()

    assert f"{span.get_span_context().trace_id:032x}" == TRACE
    assert not span.get_span_context().trace_flags.sampled
    assert application.take() == []


def test_next_span_within_an_unsampled_span_ends_nothing_but_itself(application: Any) -> None:
    """Where nothing is recorded, end() does not end the span that is current."""
    for _ in application.consumer([application.record(headers=UNSAMPLED)]):
        outer = trace.get_current_span()
        span = next_span(None)
        span.end()
        assert span is not outer
        assert span.get_span_context() == outer.get_span_context()
