"""kaspan.interceptor.compiled: it does the same as the Python code that it replaces."""

from __future__ import annotations

import copy
import functools
import itertools
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError
from opentelemetry import context
from opentelemetry.context import Context

from kaspan.interceptor.accelerate import is_pure_python
from kaspan.interceptor.kafka import consumer, process_span, producer, record_scope, send_span
from kaspan.interceptor.kafka.record_class import with_span_attribute
from kaspan.interceptor.kafka.send_templates import SendTemplates
from kaspan.interceptor.reporters import ring
from kaspan.interceptor.tracing.extras import Extras
from kaspan.interceptor.tracing.ids import spare_ids
from kaspan.interceptor.tracing.scope import SPAN_KEY
from kaspan.interceptor.tracing.span import RecordSpan
from kaspan.wire import ring as layout
from support import implementations
from support.implementations import compiled, python
from support.kafka_clients import make_tracing

NOW_NS = 1_732_459_200_123_456_789

is_pure = os.environ.get("PURE_PYTHON") or is_pure_python(os.environ)
if is_pure or not (compiled or os.environ.get("CI")):
    pytest.skip("nothing of kaspan is compiled, or it is switched off", allow_module_level=True)
BOTH = (compiled, python)


class Clock:
    """The performance counter of both sides; it goes on by `step_ns` each time that somebody looks at it."""

    def start(self, step_ns: int) -> None:
        """Begin at one second."""
        self._ticks = itertools.count(10**9, step_ns)

    def perf_counter_ns(self) -> int:
        return next(self._ticks)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """Give the clock that compiled and Python code look at."""
    clock = Clock()
    for module in (record_scope, send_span):
        monkeypatch.setattr(module, "wall_clock_ns", lambda: NOW_NS)
        monkeypatch.setattr(module, "performance_clock_ns", clock.perf_counter_ns)
    compiled.set_clocks(lambda: NOW_NS, clock.perf_counter_ns)
    yield clock
    compiled.set_clocks(time.time_ns, time.perf_counter_ns)


class Future:
    """Keeps who follows it."""

    def __init__(self) -> None:
        self._lock = None
        self.followers: list[Any] = []

    def _add_cb_eb(self, acknowledged: Any, failed: Any) -> None:
        assert acknowledged is failed
        self.followers.append(acknowledged)


def fake_producer() -> type:
    """Make a class whose instances keep what they are given, with copies of the headers; or raise `error`."""

    class Producer:
        def __init__(self) -> None:
            self.config = {"api_version": (2, 5), "client_id": "client-1"}
            self.calls: list[Any] = []
            self.futures: list[Future] = []
            self.error: type[BaseException] | None = None
            self.only_with_headers = False

        def send(self, *args: Any, **kwargs: Any) -> Future:
            self.calls.append((copy.deepcopy(args), copy.deepcopy(kwargs)))
            if self.error is not None and (kwargs.get("headers") or not self.only_with_headers):
                raise self.error(len(self.calls))
            self.futures.append(Future())
            return self.futures[-1]

    return Producer


texts = st.one_of(st.text(max_size=300), st.text(st.characters(max_codepoint=127), max_size=300))
keys = st.one_of(st.none(), texts, texts.map(str.encode), st.binary(max_size=300), st.integers())
hex_ids = st.binary(min_size=8, max_size=8).map(lambda raw: raw.hex().encode())
big = st.integers(-(2**62), 2**62)


def test_compiled_code_is_what_is_used() -> None:
    """Where it could be compiled, the classes are the compiled ones."""
    assert producer.SendSpan is compiled.SendSpan
    assert consumer.ConsumerLoop is compiled.ConsumerLoop
    assert ring.Writer is compiled.Writer
    assert RecordSpan.__bases__[0] is compiled.SpanIds
    assert python.SendSpan is not compiled.SendSpan


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    topic=texts,
    key=keys,
    parent=st.none() | hex_ids,
    offset=st.none() | big,
    partition=st.integers(0, 2**31),
    step_ns=st.integers(0, 10**12),
    is_tombstone=st.booleans(),
    is_acknowledged=st.booleans(),
    debug=st.booleans(),
)
def test_sends_are_recorded_alike(
    clock: Clock,
    topic: str,
    key: Any,
    parent: bytes | None,
    offset: int | None,
    partition: int,
    step_ns: int,
    is_tombstone: bool,
    is_acknowledged: bool,
    debug: bool,
) -> None:
    """Whatever is sent and whatever comes back, the span is the same byte for byte."""
    metadata = SimpleNamespace(offset=offset, partition=partition)
    spans: list[list[bytes]] = []
    for implementation in BOTH:
        reported: list[bytes] = []
        tracing: Any = SimpleNamespace(
            service="50 %",
            remote_service="kafka/{topic}",
            reporter=SimpleNamespace(process_start_ns=0, report=reported.append),
        )
        templates = SendTemplates(tracing, topic, "client-1", is_acknowledged)
        clock.start(step_ns)
        extras = Extras(debug=True) if debug else None
        sent = implementation.SendSpan(templates, b"a" * 32, b"b" * 16, parent, extras, key, is_tombstone)
        sent.enqueued_ns = 10**9 + 5
        sent(metadata)
        sent(metadata)
        spans.append(reported)
    assert spans[0] == spans[1]
    assert len(spans[0]) == 1


@pytest.fixture(scope="module")
def tracing(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make tracing whose spans are kept in a list."""
    return make_tracing(tmp_path_factory.mktemp("rings"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
    topic=st.sampled_from(["orders", "__internal"]) | st.integers(),
    given=st.integers(0, 4),
    headers=st.sampled_from([None, [], [("other", b"1")]]),
    value=st.none() | st.just(b"value"),
    parent=st.none() | st.tuples(hex_ids, hex_ids, st.booleans(), st.booleans()),
    low_bits=hex_ids,
)
def test_sends_begin_alike(
    clock: Clock,
    rate: float,
    topic: Any,
    given: int,
    headers: Any,
    value: Any,
    parent: Any,
    low_bits: bytes,
) -> None:
    """However send() is called, what goes on to kafka-python and what is recorded are the same."""
    arguments = {"topic": topic, "value": value, "key": b"key", "headers": headers}
    sent = []
    for name in implementations.NAMES:
        with pytest.MonkeyPatch.context() as patch:
            implementation = implementations.use(name, patch)
            clock.start(0)
            tracing = make_tracing(Path("/unused"), sampling__rate=rate)
            producer_class = fake_producer()
            producer.instrument(producer_class, Future, tracing)
            span = None if parent is None else RecordSpan(*parent[:2], None, parent[2])
            if span is not None and parent[3]:
                span.extras = Extras(debug=True)
            fake = producer_class()
            token = context.attach(Context({} if span is None else {SPAN_KEY: span}))
            for _ in range(2):  # the first send to a topic makes its templates
                spare_ids[:] = [low_bits, b"b" * 16, b"a" * 16]
                args, kwargs = tuple(arguments.values())[:given], dict(list(arguments.items())[given:])
                assert fake.send(*args, **kwargs) is fake.futures[-1]
            context.detach(token)
            assert type(fake._kaspan.ordinary) is implementation.OrdinarySends
            fields = (
                "trace_id",
                "span_id",
                "parent_id",
                "key",
                "is_tombstone",
                "timestamp_ns",
                "started_ns",
                "enqueued_ns",
            )
            followers = [one for future in fake.futures for one in future.followers]
            sent.append((fake.calls, [[getattr(one, name) for name in fields] for one in followers]))
    assert sent[0] == sent[1]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    error=st.sampled_from([KafkaTimeoutError, KeyboardInterrupt, MessageSizeTooLargeError]),
    only_with_headers=st.booleans(),
    rate=st.sampled_from([0.0, 1.0]),
    topic=st.sampled_from(["orders", "__internal"]),
)
def test_refused_sends_end_alike(
    clock: Clock, error: type[BaseException], only_with_headers: bool, rate: float, topic: str
) -> None:
    """Whatever send() raises last, the caller gets it with no other behind it, and the span ends with it."""
    outcomes = []
    for name in implementations.NAMES:
        with pytest.MonkeyPatch.context() as patch:
            implementations.use(name, patch)
            clock.start(1000)
            tracing = make_tracing(Path("/unused"), sampling__rate=rate)
            reported: list[bytes] = []
            tracing.reporter.report = reported.append
            producer_class = fake_producer()
            producer.instrument(producer_class, Future, tracing)
            fake = producer_class()
            fake.send(topic, b"value")  # the first send to a topic makes its templates
            fake.error, fake.only_with_headers = error, only_with_headers
            spare_ids[:] = [b"c" * 16, b"b" * 16, b"a" * 16]
            raised: Any = None
            try:
                fake.send(topic, b"value", key=b"key")
            except BaseException as caught:  # noqa: BLE001
                raised = type(caught), caught.args, caught.__context__
            outcomes.append((raised, fake.calls[1:], reported[:]))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0] in (None, (error, (len(outcomes[0][1]) + 1,), None))


def test_key_of_the_applications_own_class_is_not_kept() -> None:
    """Compiled sends are not seen by the garbage collector: what they hold must not lead back to them."""

    class Key:
        sent: Any

    class Text(str):
        sent: Any

    class Raw(bytes):
        sent: Any

    keys = [Key(), Text("order-1"), Raw(b"order-2"), None]
    templates = SendTemplates(make_tracing(Path("/unused")), "orders", None, True)
    held = [compiled.SendSpan(templates, b"a" * 32, b"b" * 16, None, None, key, False).key for key in keys]

    assert held == [None, "order-1", b"order-2", None]
    assert [type(key) for key in held[1:3]] == [str, bytes]


def test_record_that_another_thread_opens_during_a_close_keeps_its_span(implementation: Any) -> None:
    """A close that is interrupted by another thread ends the record that it was about, and no other."""
    from kafka.consumer import fetcher

    tracing = make_tracing(Path("/unused"), exclude_topics=("secret",))
    reported: list[bytes] = []
    tracing.reporter.report = reported.append
    record_class: Any = with_span_attribute(fetcher.ConsumerRecord)
    header = ("b3", b"a" * 32 + b"-" + b"b" * 16 + b"-1")
    fields = {"partition": 3, "offset": 5, "timestamp": 1, "headers": [header]}
    secret, order = (
        record_class(**{name: {**fields, "topic": topic}.get(name) for name in record_class._fields})
        for topic in ("secret", "orders")
    )
    consumer = SimpleNamespace(config={}, _subscription=SimpleNamespace(assignment={}))
    work = implementation.RecordScope(process_span.ConsumerSpans(consumer, record_class, tracing))
    work.open(secret)
    leave = tracing.scope.leave

    def leave_late(*arguments: Any) -> None:
        tracing.scope.leave = leave
        work.open(order)
        leave(*arguments)

    tracing.scope.leave = leave_late
    context.attach(Context({"other": "so that leave is called"}))
    work.close()
    assert not order.kaspan_span.ended
    assert not reported
    work.close()
    context.attach(Context())

    assert order.kaspan_span.ended
    assert len(reported) == 1


@st.composite
def b3_values(draw: Callable[..., Any]) -> bytes:
    """Draw values of a b3 header, most of them valid."""
    whole: bytes = b"-".join(
        [draw(hex_ids) + draw(hex_ids), draw(hex_ids), draw(st.sampled_from([b"1", b"0", b"d"]))]
    )
    at, other = draw(st.integers(-1, len(whole) - 1)), draw(st.binary(max_size=2))
    return whole if at < 0 or draw(st.booleans()) else whole[:at] + other + whole[at + 1 :]


header_lists = st.lists(
    st.tuples(
        st.sampled_from(["b3", "other", "traceparent"]), st.none() | st.binary(max_size=60) | b3_values()
    ),
    max_size=3,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    headers=header_lists,
    key=keys,
    value=st.none() | st.just(b"value"),
    offset=st.integers(0, 2**62),
    highwater=st.none() | st.integers(0, 2**62),
    sent_ms=st.none() | st.integers(-1, 2**41),
    step_ns=st.integers(0, 10**12),
    is_excluded=st.booleans(),
)
def test_records_are_recorded_alike(
    clock: Clock,
    tracing: Any,
    headers: list[Any],
    key: Any,
    value: bytes | None,
    offset: int,
    highwater: int | None,
    sent_ms: int | None,
    step_ns: int,
    is_excluded: bool,
) -> None:
    """Whatever is received, what is current meanwhile and the span are the same but for the new ids."""
    from kafka.consumer import fetcher

    record_class: Any = fetcher.ConsumerRecord
    if not hasattr(record_class, "kaspan_span"):
        record_class = with_span_attribute(record_class)
    topic = "__internal" if is_excluded else "orders"
    fields = {
        "topic": topic,
        "partition": 3,
        "offset": offset,
        "timestamp": sent_ms,
        "key": key,
        "value": value,
        "headers": headers,
    }
    seen = []
    for implementation in BOTH:
        place = SimpleNamespace(assignment={(topic, 3): SimpleNamespace(highwater=highwater)})
        consumer = SimpleNamespace(config={"group_id": "group", "client_id": "client"}, _subscription=place)
        reported: list[bytes] = []
        tracing.reporter.report = reported.append
        spans = process_span.ConsumerSpans(consumer, record_class, tracing)
        for _ in range(2):  # the first record of a partition makes its templates
            spare_ids[:] = [b"%016x" % number for number in range(9, 0, -1)]
            record = record_class(**{name: fields.get(name) for name in record_class._fields})
            clock.start(step_ns)
            work = implementation.RecordScope(spans)
            assert work.open(record) is record
            current = dict(context.get_current())
            work.close()
            assert not context.get_current()
            states = [
                (
                    type(span).__name__,
                    getattr(span, "trace_id", None),
                    getattr(span, "span_id", None),
                    getattr(span, "parent_id", None),
                    getattr(span, "headers", None),
                )
                for span in current.values()
            ]
            seen.append((implementation is compiled, states, reported[:]))
            reported.clear()
    assert [entry[1:] for entry in seen if entry[0]] == [entry[1:] for entry in seen if not entry[0]]


@given(
    st.lists(st.tuples(st.integers(1, 9000), st.booleans()), max_size=60),
)
def test_rings_are_written_alike(puts: list[tuple[int, bool]]) -> None:
    """The same spans leave the same ring: its frames, its wraps, what did not fit and the counts."""
    data_bytes = layout.MIN_DATA_BYTES
    made = []
    for implementation in BOTH:
        mapped = mmap.mmap(-1, layout.HEADER_BYTES + data_bytes)
        mapped[: layout.HEADER_BYTES] = layout.pack_header(data_bytes, b"{}")
        writer = implementation.Writer(mapped, data_bytes)
        for index, (length, is_read_before) in enumerate(puts):
            if is_read_before:
                mapped[layout.READ_POS : layout.READ_POS + 8] = mapped[
                    layout.WRITE_POS : layout.WRITE_POS + 8
                ]
            writer.put(bytes([index % 251 + 1]) * length)
        made.append(mapped[:])
        writer.release()
        mapped.close()
    assert made[0] == made[1]


def test_released_ring_takes_nothing_and_the_file_can_be_closed() -> None:
    """After a fork the child lets go of the parent's ring; a put that comes too late cannot reach it."""
    mapped = mmap.mmap(-1, layout.HEADER_BYTES + layout.MIN_DATA_BYTES)
    writer = compiled.Writer(mapped, layout.MIN_DATA_BYTES)
    writer.release()
    mapped.close()
    with pytest.raises(ValueError, match="abandoned"):
        writer.put(b"{}")


class Handed(tuple):  # type: ignore[type-arg]
    """What is looked for."""


plain_values = st.none() | st.integers() | st.text() | st.functions()
handed_values = plain_values | st.builds(Handed)
containers = (
    st.lists(handed_values, max_size=20)
    | st.lists(handed_values, max_size=20).map(tuple)
    | st.dictionaries(st.text(), handed_values, max_size=20)
)
callees = st.sampled_from([len, print, lambda: None, lambda a=1: a, functools.partial(len), Handed])


@given(
    function=callees,
    args=st.lists(handed_values | containers, max_size=4).map(tuple) | st.lists(handed_values, max_size=4),
    kwargs=st.dictionaries(st.text(), handed_values | containers, max_size=3),
)
def test_look_at_arguments_sees_the_same(function: Any, args: Any, kwargs: Any) -> None:
    """Both say alike whether there may be a record among some arguments."""
    types = {Handed, list, tuple, dict}
    expected = python.may_be_given(types, function, args, kwargs)

    assert compiled.may_be_given(types, function, args, kwargs) is expected


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a coroutine refers to its frame there")
@given(value=handed_values)
def test_look_at_a_coroutine_sees_the_same(value: Any) -> None:
    """Both say alike whether a coroutine was called with an object of a type."""

    async def handle(order: Any, number: int = 7) -> None: ...

    coroutine = handle(value)
    for types in ({Handed}, {int}, {bytes}, {float, Handed}):
        expected = python.refers_to(types, coroutine)
        assert compiled.refers_to(types, coroutine) is expected
    coroutine.close()
