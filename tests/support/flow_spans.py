"""Spans of flows through topics: exactly timed ones, and any trees of spans at all."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kaspan.insight.span_tree import SpanNode, build_tree
from kaspan.insight.trace import clean_trace
from kaspan.wire.span import Annotation, Endpoint, Span

TRACE_ID = "000000000000000000000000000000aa"
START_US = 1_700_000_000_000_000


def span(
    number: int, parent: int | None, kind: str | None, at_us: int, duration_us: int | None, **more: Any
) -> Span:
    """Make a span of the service `more["service"]` that begins at_us after START_US."""
    service = more.pop("service", f"service-{number}")
    return Span(
        trace_id=TRACE_ID,
        id=f"{number:016x}",
        parent_id=None if parent is None else f"{parent:016x}",
        kind=kind,
        timestamp=START_US + at_us,
        duration=duration_us,
        local_endpoint=Endpoint(service_name=service),
        **more,
    )


def send(
    number: int, parent: int | None, at_us: int, enqueued_us: int, acknowledged_us: int, **more: Any
) -> Span:
    """Make a send's span; the durations count from its start."""
    tags = {
        "kafka.topic": "orders",
        "messaging.destination.partition.id": "2",
        "messaging.kafka.offset": "101",
    }
    enqueued = [Annotation(START_US + at_us + enqueued_us, "kafka.enqueued")]
    return span(number, parent, "PRODUCER", at_us, acknowledged_us, annotations=enqueued, tags=tags, **more)


def process(number: int, parent: int | None, at_us: int, duration_us: int, **more: Any) -> Span:
    """Make the span of a record that is processed."""
    tags = {"kafka.topic": "orders", "messaging.consumer.group.name": "shipping", **more.pop("tags", {})}
    return span(number, parent, "CONSUMER", at_us, duration_us, tags=tags, **more)


def tree(*spans: Span) -> SpanNode[Span]:
    """Return the tree of a trace."""
    return build_tree(clean_trace(spans))


@st.composite
def any_traces(draw: st.DrawFn) -> list[Span]:
    """Draw traces with any parents (missing ones and circles included), times and kinds."""
    count = draw(st.integers(1, 14))
    spans = []
    for number in range(1, count + 1):
        at_us = draw(st.integers(-20, 60))
        made = span(
            number,
            draw(st.none() | st.integers(1, count + 1)),
            draw(st.sampled_from(["PRODUCER", "CONSUMER", "CLIENT", "SERVER", None])),
            at_us,
            draw(st.none() | st.integers(0, 40)),
            service=draw(st.sampled_from(["a", "b", "c"])),
            name=draw(st.none() | st.sampled_from(["send orders", "process orders"])),
            tags=draw(st.sampled_from([{}, {"kafka.topic": "orders"}, {"error": "no"}])),
        )
        if draw(st.booleans()):
            at = START_US + draw(st.integers(-30, 90))
            made.annotations = [Annotation(at, "kafka.enqueued")]
        if draw(st.integers(0, 9)) == 0:
            made.timestamp = None
        if draw(st.integers(0, 9)) == 0:
            made.local_endpoint = None
        spans.append(made)
    return spans
