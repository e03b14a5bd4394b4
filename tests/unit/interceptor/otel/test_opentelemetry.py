"""Spans made through OpenTelemetry's API are part of the record's trace, and reach Zipkin with it."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.trace import ProxyTracer, SpanKind, Status, StatusCode

from kaspan.interceptor.otel.tracer_proxy import LazyProvider, provide_tracers
from kaspan.wire.ring import MAX_SPAN_BYTES
from support.programs import ProgramRunner, outcome
from support.ring_reader import RingReader, Span, current

TRACE = "463ac35c9f6413ad48485a3953bb6124"
UNSAMPLED = [("b3", f"{TRACE}-a2fb4a1d1a96d312-0".encode())]
DEBUG = [("b3", f"{TRACE}-a2fb4a1d1a96d312-d".encode())]
SHORT = [("b3", b"48485a3953bb6124-a2fb4a1d1a96d312-1")]


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Any]:
    """Give a way to let an application's tracing provide tracers, as its start does; returns one."""

    def provide(application: Any) -> Any:
        monkeypatch.setattr(ProxyTracer, "_tracer", vars(ProxyTracer)["_tracer"])
        provide_tracers(trace, lambda: application.tracing)
        return trace.get_tracer("hand", "1.2")

    return provide


def test_tracer_can_be_had_once_tracing_is_on(application: Any) -> None:
    """Who asks while another thread is switching tracing on gets none, and one the next time."""
    answers = iter([None, application.tracing])
    provider = LazyProvider(lambda: next(answers))

    assert provider.tracer("hand") is None
    assert provider.tracer("hand") is not None


@pytest.fixture
def tracer(application: Any, provided: Any) -> Any:
    """Give a tracer as the application gets it from OpenTelemetry's API."""
    return provided(application)


def one(application: Any) -> Span:
    (span,) = application.take()
    assert isinstance(span, Span)
    return span


def test_span_in_the_body_is_a_child_of_the_record_and_written_with_it(application: Any, tracer: Any) -> None:
    """A span made by hand in a loop's body is under the record's, of the same service, in the same ring."""
    for _ in application.consumer([application.record()]):
        with tracer.start_as_current_span("pack", attributes={"boxes": 2, "fast": True}):
            inside = current()

    packed, processed = application.take()

    assert (packed.name, packed.trace_id, packed.parent_id) == ("pack", processed.trace_id, processed.id)
    assert inside == (packed.trace_id, packed.id)
    assert packed.local_endpoint == processed.local_endpoint
    assert packed.tags == {
        "boxes": "2",
        "fast": "true",
        "otel.scope.name": "hand",
        "otel.scope.version": "1.2",
    }
    assert (packed.kind, packed.debug, packed.shared, packed.remote_endpoint) == (None, None, None, None)
    assert processed.timestamp <= packed.timestamp
    assert packed.timestamp + packed.duration <= processed.timestamp + processed.duration + 1


def test_send_in_a_span_in_the_body_is_its_child(application: Any, tracer: Any) -> None:
    """Record, span of the application's, send: one under the other."""
    producer = application.producer()
    for _ in application.consumer([application.record()]):
        with tracer.start_as_current_span("pack"):
            producer.send("shipments", b"value")
        producer.last.acknowledge()

    packed, sent, processed = application.take()

    assert (sent.parent_id, packed.parent_id) == (packed.id, processed.id)
    assert sent.trace_id == packed.trace_id == processed.trace_id


def test_spans_of_an_instrumentation_are_in_the_trace(application: Any, tracer: Any) -> None:
    """What opentelemetry-instrumentation-sqlite3 sees is under the record's span."""
    SQLite3Instrumentor().instrument()
    try:
        for _ in application.consumer([application.record()]):
            connection = sqlite3.connect(":memory:")
            connection.cursor().execute("SELECT 1")
            connection.close()
    finally:
        SQLite3Instrumentor().uninstrument()

    queried, processed = application.take()

    assert (queried.name, queried.kind, queried.parent_id) == ("SELECT", "CLIENT", processed.id)
    assert queried.tags["db.statement"] == "SELECT 1"


def test_thread_that_an_instrumentation_gives_its_context_is_in_the_trace(
    application: Any, tracer: Any
) -> None:
    """With opentelemetry-instrumentation-threading a thread started in the body goes on with the record."""
    producer = application.producer()
    ThreadingInstrumentor().instrument()
    try:
        for _ in application.consumer([application.record()]):
            thread = threading.Thread(target=producer.send, args=("shipments", b"value"))
            thread.start()
            thread.join()
            producer.last.acknowledge()
    finally:
        ThreadingInstrumentor().uninstrument()

    sent, processed = application.take()

    assert (sent.trace_id, sent.parent_id) == (processed.trace_id, processed.id)


def test_span_outside_of_any_begins_a_trace_at_the_rate(configured: Any, provided: Any) -> None:
    """A trace that begins with a span of OpenTelemetry's is sampled as kaspan's own are."""
    application = configured(sampling__rate=0.5)
    tracer, producer = provided(application), application.producer()
    for _ in range(200):
        with tracer.start_as_current_span("tick") as span:
            producer.send("orders", b"value")
        producer.last.acknowledge()
        sampled = (span.get_span_context().trace_id & (2**64 - 1)) < 2**63
        assert span.get_span_context().trace_flags.sampled == sampled
        assert [one.name for one in application.take()] == (["tick", "send orders"] if sampled else [])


def test_span_in_an_unsampled_trace_is_not_recorded(application: Any, tracer: Any) -> None:
    """The decision that came with the record holds for everything below it."""
    producer = application.producer()
    for _ in application.consumer([application.record(headers=UNSAMPLED)]):
        with tracer.start_as_current_span("pack") as span:
            producer.send("shipments", b"value")
        producer.last.acknowledge()

    assert not span.is_recording()
    assert producer.last.headers[0][1].startswith(TRACE.encode())
    assert producer.last.headers[0][1].endswith(b"-0")
    assert application.take() == []


def test_span_under_a_debug_record_is_recorded_at_any_rate(configured: Any, provided: Any) -> None:
    """Debug means sampled, for spans of OpenTelemetry's too."""
    application = configured(sampling__rate=0.0)
    tracer = provided(application)
    for _ in application.consumer([application.record(headers=DEBUG)]):
        with tracer.start_as_current_span("pack"):
            pass

    assert [span.name for span in application.take()] == ["pack", "process orders"]


def test_span_in_a_trace_of_64_bits_has_its_id(application: Any, tracer: Any) -> None:
    """A trace id of 16 digits stays one, so that every reader sees one trace."""
    for _ in application.consumer([application.record(headers=SHORT)]):
        with tracer.start_as_current_span("pack"):
            pass

    assert {span.trace_id for span in application.take()} == {"48485a3953bb6124"}


def test_error_is_marked(application: Any, tracer: Any) -> None:
    """A span that fails has the tag `error` with its description, and the exception as an annotation."""
    with pytest.raises(LookupError), tracer.start_as_current_span("pack"):
        raise LookupError("no such order")

    span = one(application)
    assert span.tags["error"] == "LookupError: no such order"
    (annotation,) = span.annotations
    assert json.loads(annotation.value)["exception"]["exception.message"] == "no such order"


def test_error_without_a_description_is_marked(application: Any, tracer: Any) -> None:
    """Zipkin shows an error by the tag, so it is never empty."""
    with tracer.start_as_current_span("pack") as span:
        span.set_status(Status(StatusCode.ERROR))

    assert one(application).tags["error"] == "true"


REMOTES: dict[str, tuple[SpanKind, dict[str, Any], str | None]] = {
    "peer.service": (SpanKind.CLIENT, {"peer.service": "stock", "server.address": "10.0.0.1"}, "stock"),
    "server.address": (SpanKind.CLIENT, {"server.address": "stock.local"}, "stock.local"),
    "producer": (SpanKind.PRODUCER, {"net.peer.name": "rabbit"}, "rabbit"),
    "none": (SpanKind.CLIENT, {"http.method": "GET"}, None),
    "server": (SpanKind.SERVER, {"server.address": "shop.local"}, None),
    "internal": (SpanKind.INTERNAL, {"server.address": "stock.local"}, None),
}


@pytest.mark.parametrize(("kind", "attributes", "expected"), REMOTES.values(), ids=REMOTES.keys())
def test_other_side_of_a_call_is_the_remote_endpoint(
    application: Any, tracer: Any, kind: SpanKind, attributes: dict[str, Any], expected: str | None
) -> None:
    """Zipkin's dependencies need the other side's name, which a client's attributes have."""
    with tracer.start_as_current_span("call", kind=kind, attributes=attributes):
        pass

    span = one(application)
    assert (span.remote_endpoint and span.remote_endpoint.service_name) == expected
    assert span.tags.items() >= attributes.items()


def test_attributes_are_text_of_bounded_length(application: Any, tracer: Any) -> None:
    """Lists are JSON, a long text is cut off, and nothing that is not text is left."""
    attributes = {"list": ["a", "b"], "long": "x" * 100_000, "nothing": ""}
    with tracer.start_as_current_span("n" * 100_000, attributes=attributes):
        pass

    span = one(application)
    assert (span.tags["list"], span.tags["nothing"]) == ('["a","b"]', "")
    assert len(span.tags["long"]) == len(span.name or "") == 4096


def test_span_too_large_for_the_ring_leaves_out_what_is_large(application: Any, tracer: Any) -> None:
    """The ring's reader takes no frame beyond its bound, so annotations go first and then tags."""
    large = "\N{GRINNING FACE}" * 4096
    with tracer.start_as_current_span("events", attributes={"kept": "1"}) as span:
        for number in range(120):
            span.add_event("event", {f"key-{number}": large})
    with tracer.start_as_current_span("tags") as span:
        for number in range(120):
            span.set_attribute(f"key-{number}", large)

    events, tags = application.take()

    assert (events.name, events.annotations, events.tags["kept"]) == ("events", [], "1")
    assert (tags.name, tags.tags) == ("tags", {})
    assert len(json.dumps(large)) * 120 > MAX_SPAN_BYTES


def test_span_of_no_length_has_one(application: Any, tracer: Any) -> None:
    """Zipkin takes a duration of 0 for unknown."""
    span = tracer.start_span("tick", start_time=1_700_000_000_000_000_000)
    span.end(1_700_000_000_000_000_000)

    assert one(application).duration == 1


def test_trace_ids_do_not_repeat_with_random_seeds(application: Any, tracer: Any) -> None:
    """An application that seeds the random module makes no two traces of one id."""
    seen = set()
    for _ in range(3):
        random.seed(1)
        with tracer.start_as_current_span("tick") as span:
            seen.add(span.get_span_context().trace_id)

    assert len(seen) == 3


def test_failure_while_a_span_is_written_is_not_the_applications(
    application: Any, tracer: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Any failure inside kaspan is one warning, and the application runs on."""

    def fail(payload: bytes) -> None:
        raise OSError("gone")

    monkeypatch.setattr(application.tracing.reporter, "report", fail)
    for _ in range(2):
        with tracer.start_as_current_span("pack"):
            pass

    assert [record.levelname for record in caplog.records if record.name == "kaspan"] == ["WARNING"]


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_span_open_over_a_fork_is_written_once(application: Any, tracer: Any) -> None:
    """A span that was begun before a fork is the parent's to report; the child's own are the child's."""
    with tracer.start_as_current_span("parent"):
        child = os.fork()
        if child == 0:
            with tracer.start_as_current_span("child"):
                time.sleep(0)
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0

    names = sorted(span.name or "" for span in application.take())
    assert names == ["child", "parent"]


LAZY = """
import sys
from opentelemetry import trace
early = trace.get_tracer("early")
import kafka
late = trace.get_tracer("late")
loaded = lambda: [name for name in ("opentelemetry.sdk", "requests") if name in sys.modules]
print(loaded())
with early.start_as_current_span("early"):
    with late.start_as_current_span("late"):
        pass
print(loaded())
"""


def test_sdk_is_loaded_when_the_first_span_is_made(programs: ProgramRunner) -> None:
    """Asking for a tracer loads nothing; a tracer asked for before kafka was imported works as well."""
    assert outcome(programs.traced(LAZY)) == (0, "[]\n['opentelemetry.sdk']\n", "")
    late, early = RingReader(programs.ring_dir).take()
    assert (late.name, late.parent_id, early.name) == ("late", early.id, "early")


OWN = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
exporter = InMemorySpanExporter()
def own():
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    assert trace.get_tracer_provider() is provider
tracer = trace.get_tracer("application")
"""
WHEN: dict[str, str] = {
    "before": "own()\nimport kafka\n",
    "after": "import kafka\nown()\n",
    "after spans were made": 'import kafka\ntracer.start_span("first").end()\nown()\n',
}


@pytest.mark.parametrize("when", WHEN.values(), ids=WHEN.keys())
def test_application_with_its_own_provider_keeps_it(programs: ProgramRunner, when: str) -> None:
    """A provider set before or after kafka is imported is the application's, without a warning."""
    code = (
        OWN + when + 'tracer.start_span("own").end()\nprint([s.name for s in exporter.get_finished_spans()])'
    )
    done = programs.traced(code)

    assert outcome(done) == (0, "['own']\n", "")
    expected = ["first"] if "first" in when else []
    assert [span.name for span in RingReader(programs.ring_dir).take()] == expected


def test_disabled_interceptor_provides_no_tracer(programs: ProgramRunner) -> None:
    """Without kaspan the API's spans are what they are without kaspan."""
    code = (
        "import kafka\nfrom opentelemetry import trace\n"
        'print(trace.get_tracer("a").start_span("b").is_recording())'
    )

    assert outcome(programs.traced(code, KASPAN_INTERCEPTOR__ENABLED="false")) == (0, "False\n", "")
    assert outcome(programs.traced(code)) == (0, "True\n", "")


PEER = """
from opentelemetry import trace
def instrument():
    from opentelemetry.instrumentation.kafka import KafkaInstrumentor
    KafkaInstrumentor().instrument(skip_dep_check=True)  # it looks for kafka-python by that name alone
    return KafkaInstrumentor()
def use():
    from support.kafka_clients import UnconnectedConsumer, UnconnectedProducer, make_record
    from kafka.consumer import fetcher
    producer = UnconnectedProducer()
    for record in UnconnectedConsumer([make_record(fetcher.ConsumerRecord)]):
        producer.send("shipments", b"value")
        producer.last.acknowledge()
    print([key for key, _ in producer.last.headers])
"""
ORDERS: dict[str, str] = {
    "after kafka": "import kafka; peer = instrument(); use(); peer.uninstrument(); use()",
    "before kafka": "peer = instrument(); use(); peer.uninstrument(); use()",
    "twice": "peer = instrument(); peer.uninstrument(); instrument(); use(); use()",
}


def said(stderr: str) -> list[str]:
    return [line.partition(";")[0] for line in stderr.splitlines()]


WARNING = "kaspan: opentelemetry-instrumentation-kafka-python is switched on too"


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_peer_that_is_switched_on_makes_no_second_spans(programs: ProgramRunner, order: str) -> None:
    """With opentelemetry-instrumentation-kafka-python on, records have kaspan's spans and headers alone."""
    done = programs.traced(PEER + order)

    assert (done.returncode, done.stdout) == (0, "['b3']\n['b3']\n")
    assert said(done.stderr) == [WARNING]
    names = [span.name for span in RingReader(programs.ring_dir).take()]
    assert names == ["send shipments", "process orders"] * 2


def test_peer_that_was_there_first_is_displaced(programs: ProgramRunner) -> None:
    """Where the peer has patched kafka-python before kaspan comes, its patches are taken away."""
    code = PEER + (
        "import kafka; peer = instrument()\n"
        "from kaspan.interceptor.bootstrap import activation; activation.activate()\n"
        "use(); peer.uninstrument(); use()"
    )
    done = programs.plain(code)

    assert (done.returncode, done.stdout) == (0, "['b3']\n['b3']\n")
    assert said(done.stderr) == [WARNING]
    names = [span.name for span in RingReader(programs.ring_dir).take()]
    assert names == ["send shipments", "process orders"] * 2


def test_peer_is_left_alone_where_kaspan_is_disabled(programs: ProgramRunner) -> None:
    """With interceptor.enabled false the peer works as if kaspan were not there."""
    code = PEER + "import kafka; instrument(); use()"
    plain, traced = programs.plain(code), programs.traced(code, KASPAN_INTERCEPTOR__ENABLED="false")

    assert outcome(traced) == outcome(plain)


@pytest.fixture(autouse=True)
def no_provider() -> Iterator[None]:
    """Hold every test to leaving the process without a provider."""
    yield
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
