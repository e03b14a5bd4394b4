"""One variant of bench/compare_sdk.py, with VARIANT RECORDS as its arguments.

For each line of standard input it does a slice of records, and prints the CPU microseconds a record of the
application's own thread and of its process.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from null_kafka import NullConsumer, put_nothing_behind_kafka

VARIANT, RECORDS = sys.argv[1], int(sys.argv[2])
TAGS = {
    "kafka.topic": "orders",
    "kafka.key": "order-1234",
    "messaging.system": "kafka",
    "messaging.operation.name": "process",
    "messaging.destination.name": "orders",
    "messaging.destination.partition.id": "3",
    "messaging.kafka.offset": "123456",
    "messaging.consumer.group.name": "shipping",
    "messaging.client.id": "kafka-python-3.0.12",
}

TRACINGS: list[Any] = []
"""The process's only Tracing, once it is made."""


def instrument() -> Callable[[], object]:
    """Switch on the tracing of this variant; returns a function that sends all remaining spans."""
    if VARIANT in ("untraced", "kaspan by hand"):
        return lambda: None
    if VARIANT == "kaspan traced":
        from kaspan.interceptor.bootstrap import activation

        activation.activate()
        return lambda: None
    from opentelemetry import trace
    from opentelemetry.exporter.zipkin.json import ZipkinExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "bench"}))
    exporter = ZipkinExporter(endpoint=os.environ["ZIPKIN"])
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=2 * RECORDS))
    trace.set_tracer_provider(provider)
    if VARIANT == "SDK traced":
        from opentelemetry.instrumentation.kafka import KafkaInstrumentor

        KafkaInstrumentor().instrument()
    return provider.force_flush


def receive() -> None:
    """Loop over records."""
    left = RECORDS
    for _ in CONSUMER:
        left -= 1
        if not left:
            break


def make_kaspan_spans() -> None:
    """Make spans by hand as kaspan's instrumentation of kafka-python does."""
    from kaspan.config import load
    from kaspan.interceptor.tracing.tracing import Tracing
    from kaspan.interceptor.tracing.zipkin_json import ordinary_template, quote, span_template

    tracing = TRACINGS[0] if TRACINGS else Tracing("bench", load().settings.interceptor)
    TRACINGS[:] = [tracing]
    template = span_template("CONSUMER", "bench", "kafka", "orders", TAGS.items())
    template = ordinary_template(template, b"", quote("process orders"), b"", b"")
    for _ in range(RECORDS):
        began_ns = time.perf_counter_ns()
        span = tracing.child_of(None, "receive", "orders")
        duration_us = (time.perf_counter_ns() - began_ns) // 1000 or 1
        tracing.reporter.report(template % (span.trace_id, span.span_id, time.time_ns() // 1000, duration_us))


def make_spans() -> None:
    """Make spans by hand, without an instrumentation."""
    from opentelemetry import trace

    tracer = trace.get_tracer("bench")
    for _ in range(RECORDS):
        with tracer.start_as_current_span("process orders", kind=trace.SpanKind.CONSUMER, attributes=TAGS):
            pass


BY_HAND = {"SDK by hand": make_spans, "kaspan by hand": make_kaspan_spans}
put_nothing_behind_kafka()
FLUSH = instrument()
CONSUMER = NullConsumer(["orders"])
for _ in sys.stdin:
    began_thread_s, began_s = time.thread_time(), time.process_time()
    BY_HAND.get(VARIANT, receive)()
    thread_s = time.thread_time() - began_thread_s
    FLUSH()
    print(thread_s / RECORDS * 1e6, (time.process_time() - began_s) / RECORDS * 1e6, flush=True)
os._exit(0)
