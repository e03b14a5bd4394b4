"""The critical path of a trace: what its time went into, microsecond by microsecond, through topics.

It is found from the end: the span that ends last, in it the child that ended last before, and where a span
begins, what caused it: its parent or, for a record, its way through the topic. What runs beside the path is
not on it. Other tracers end at a topic: Jaeger does not follow PRODUCER to CONSUMER, and CRISP drops children
that begin after their parent's end.

A send blocks its caller until `kafka.enqueued`, not until the acknowledgement.
"""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from kaspan.insight.hops import is_consumer, sent_times, topic_of
from kaspan.insight.span_tree import SpanNode
from kaspan.wire.span import Span

Label = Literal["producing", "delivery", "waiting", "work", "gap"]
"""`work` is the time of a span itself, `gap` that of no span; the others are parts of a hop."""


class Segment(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A piece of the critical path, from `start_us` to `end_us` in microseconds since the epoch.

    `service` and `topic` say where the time went; `span_id` is the send of producing, delivery and waiting,
    else the span that worked, or after which there is a gap.
    """

    start_us: int
    end_us: int
    label: Label
    service: str | None = None
    topic: str | None = None
    span_id: str | None = None


def critical_path(root: SpanNode[Span]) -> list[Segment]:
    """Return the critical path of a trace's tree, in the order of time.

    The segments follow each other without a hole and without an overlap, from the first timestamp of the
    trace to its last end. Empty if no span has a timestamp. The time that it takes grows with n log n of the
    spans.
    """
    walk = _Walk(root)
    if walk.last is not None:
        walk.run(walk.last)
    return walk.segments[::-1]


def shares(path: list[Segment]) -> list[tuple[Label, str | None, int]]:
    """Return how long the path is in each label and place, in microseconds, longest first.

    The place is the topic, or where there is none, the service.
    """
    times_us: Counter[tuple[Label, str | None]] = Counter()
    for segment in path:
        times_us[segment.label, segment.topic or segment.service] += segment.end_us - segment.start_us
    return [(label, place, time_us) for (label, place), time_us in times_us.most_common()]


class _Walk:
    """The walk from the end of a trace to its start. `segments` are in the reverse order of time."""

    def __init__(self, root: SpanNode[Span]) -> None:
        self.segments: list[Segment] = []
        self._parents: dict[int, SpanNode[Span] | None] = {}
        self._steps: dict[int, list[tuple[int, SpanNode[Span]]]] = {}
        self._first_us = 0
        self.last: SpanNode[Span] | None = None
        timed = []
        for node, parent in root.traverse():
            self._parents[id(node)] = parent
            if node.span is not None and node.span.timestamp:
                timed.append(node)
        if timed:
            self._first_us = min(map(_start_us, timed))
            self.last = max(timed, key=_end_us)

    def run(self, last: SpanNode[Span]) -> None:
        """Walk from the end of the span that ends last."""
        node: SpanNode[Span] | None = last
        now_us = _end_us(last)
        while node is not None:
            step = self._next_step(node, now_us)
            if step is not None:
                blocked_until_us, child = step
                self._add_own(node, blocked_until_us, now_us)
                node, now_us = child, min(now_us, blocked_until_us)
                continue
            if node.span is not None and node.span.timestamp:
                self._add_own(node, node.span.timestamp, now_us)
                now_us = min(now_us, node.span.timestamp)
            parent = self._parents.get(id(node))
            if parent is not None and is_consumer(node) and parent.span and parent.span.kind == "PRODUCER":
                now_us = self._add_hop(parent.span, 0, now_us)
                parent = self._parents.get(id(parent))
            node = parent
        self._add("gap", self._first_us, now_us)

    def _next_step(self, node: SpanNode[Span], now_us: int) -> tuple[int, SpanNode[Span]] | None:
        """Return the child that blocked a span last before a time, and until when; each child only once."""
        steps = self._steps.get(id(node))
        if steps is None:
            steps = self._steps[id(node)] = _blocking(node)
        while steps and steps[-1][0] > now_us:
            steps.pop()
        return steps.pop() if steps else None

    def _add_own(self, node: SpanNode[Span], start_us: int, end_us: int) -> None:
        """Add the time of a span itself; what lies outside of it is a gap."""
        span = node.span
        if span is None or not span.timestamp:
            self._add("gap", start_us, end_us)
            return
        own_end_us = max(start_us, min(end_us, _end_us(node)))
        own_start_us = min(own_end_us, max(start_us, span.timestamp))
        self._add("gap", own_end_us, end_us, span)
        if span.kind == "PRODUCER":
            self._add_hop(span, own_start_us, own_end_us)
        else:
            self._add("work", own_start_us, own_end_us, span)
        self._add("gap", start_us, own_start_us, span)

    def _add_hop(self, send: Span, start_us: int, received_us: int) -> int:
        """Add the way of a record, as far as it lies between two times; return when it was sent."""
        sent = sent_times(send)
        if sent is None:
            return received_us
        producing_us, delivery_us, waiting_us = sent.parts_us(received_us)
        end_us = received_us
        parts: tuple[tuple[Label, int], ...] = (
            ("waiting", waiting_us),
            ("delivery", delivery_us),
            ("producing", producing_us),
        )
        for label, part_us in parts:
            self._add(label, max(start_us, end_us - part_us), end_us, send)
            end_us -= part_us
        return end_us

    def _add(self, label: Label, start_us: int, end_us: int, span: Span | None = None) -> None:
        if end_us <= start_us:
            return
        service = span.local_endpoint.service_name if span is not None and span.local_endpoint else None
        topic = topic_of(span) if span is not None and label in ("producing", "delivery", "waiting") else None
        span_id = span.id if span is not None else None
        self.segments.append(Segment(start_us, end_us, label, service, topic, span_id))


def _start_us(node: SpanNode[Span]) -> int:
    return (node.span.timestamp or 0) if node.span is not None else 0


def _end_us(node: SpanNode[Span]) -> int:
    duration_us = (node.span.duration or 0) if node.span is not None else 0
    return _start_us(node) + max(0, duration_us)


def _blocking(node: SpanNode[Span]) -> list[tuple[int, SpanNode[Span]]]:
    """Return the children that their parent waits for, by the time until which it does.

    Not the records that came of a send: nobody waits for them here.
    """
    is_send = node.span is not None and node.span.kind == "PRODUCER"
    found = []
    for child in node.children:
        span = child.span
        if span is None or not span.timestamp or (is_send and is_consumer(child)):
            continue
        sent = sent_times(span) if span.kind == "PRODUCER" else None
        found.append((sent.enqueued_us if sent is not None else _end_us(child), child))
    found.sort(key=lambda step: step[0])
    return found
