"""The way of each record of a trace: from `send` through its topic to the service that processes it.

Facts: a send's span lasts until the acknowledgement, its annotation `kafka.enqueued` says when `send()` had
returned, and a consumer may get a record before the producer gets the acknowledgement (docs/semantics.md).
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from kaspan.insight.span_tree import SpanNode
from kaspan.wire.span import Span

ENQUEUED = "kafka.enqueued"
_TOPIC, _PARTITION, _OFFSET = (
    "kafka.topic",
    "messaging.destination.partition.id",
    "messaging.kafka.offset",
)
_GROUP, _QUEUE_TIME = "messaging.consumer.group.name", "kafka.queue_time_ms"
_MAX_DIGITS = 18


class Hop(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """One record's way. Times are microseconds since the epoch, and durations microseconds.

    A part is None if the trace does not tell it: nobody has processed the record, or no span of its send is
    there. `producing_us` is the time in `send()`: waiting for metadata and for room in the buffer;
    `delivery_us` the batch, the network and the broker; `waiting_us` from the acknowledgement to the
    consumer's span; `processing_us` that span. Without the send's span `waiting_us` has the delivery in it,
    and comes from the record's timestamp. `is_skewed`: the consumer's clock is behind the producer's, so that
    the parts before it are too short.
    """

    topic: str
    partition: int | None = None
    offset: int | None = None
    producer: str | None = None
    consumer: str | None = None
    group: str | None = None
    send_id: str | None = None
    process_id: str | None = None
    sent_us: int | None = None
    received_us: int | None = None
    producing_us: int | None = None
    delivery_us: int | None = None
    waiting_us: int | None = None
    processing_us: int | None = None
    is_error: bool = False
    is_skewed: bool = False


class Sent(msgspec.Struct, frozen=True):
    """When a record was sent, had been put into the buffer, and was acknowledged."""

    sent_us: int
    enqueued_us: int
    acknowledged_us: int

    def parts_us(self, received_us: int) -> tuple[int, int, int]:
        """Return the times of producing, delivery and waiting until the record is received.

        They add up to the time between, or to 0 if the record seems to be received before it is sent.
        """
        enqueued_us = max(self.sent_us, min(self.enqueued_us, received_us))
        acknowledged_us = max(enqueued_us, min(self.acknowledged_us, received_us))
        waiting_us = max(0, received_us - acknowledged_us)
        return enqueued_us - self.sent_us, acknowledged_us - enqueued_us, waiting_us


def sent_times(send: Span) -> Sent | None:
    """Return the times of a send's span; None if it has no timestamp."""
    if not send.timestamp:
        return None
    end_us = send.timestamp + max(0, send.duration or 0)
    enqueued_us = next(
        (item.timestamp for item in send.annotations if item.value == ENQUEUED), send.timestamp
    )
    return Sent(send.timestamp, min(max(enqueued_us, send.timestamp), end_us), end_us)


def topic_of(span: Span) -> str | None:
    """Return the topic of a send or of a record's span, also of other tracers; None if it names none."""
    return span.tags.get(_TOPIC) or span.tags.get("messaging.destination.name") or None


def hops(root: SpanNode[Span]) -> list[Hop]:
    """Return the hops of a trace's tree, ordered by when they were sent or, if unknown, received."""
    found = list(_hops(root))
    found.sort(key=lambda hop: hop.sent_us or hop.received_us or 0)
    return found


def _hops(root: SpanNode[Span]) -> Iterator[Hop]:
    for node, parent in root.traverse():
        span = node.span
        if span is None:
            continue
        if span.kind == "CONSUMER":
            send = parent.span if parent is not None else None
            yield _hop(send if send is not None and send.kind == "PRODUCER" else None, span)
        elif span.kind == "PRODUCER" and not any(is_consumer(child) for child in node.children):
            yield _hop(span, None)


def is_consumer(node: SpanNode[Span]) -> bool:
    """Whether a node is a record that was received."""
    return node.span is not None and node.span.kind == "CONSUMER"


def _hop(send: Span | None, process: Span | None) -> Hop:
    spans = [span for span in (process, send) if span is not None]
    received_us = process.timestamp if process is not None else None
    sent = sent_times(send) if send is not None else None
    producing_us, delivery_us, waiting_us = _parts_us(sent, process)
    return Hop(
        topic=next(filter(None, map(topic_of, spans)), ""),
        partition=_number(spans, _PARTITION),
        offset=_number(spans, _OFFSET),
        producer=_service(send),
        consumer=_service(process),
        group=process.tags.get(_GROUP) if process is not None else None,
        send_id=send.id if send is not None else None,
        process_id=process.id if process is not None else None,
        sent_us=sent.sent_us if sent is not None else None,
        received_us=received_us,
        producing_us=producing_us,
        delivery_us=delivery_us,
        waiting_us=waiting_us,
        processing_us=process.duration if process is not None else None,
        is_error=any("error" in span.tags for span in spans),
        is_skewed=sent is not None and received_us is not None and received_us < sent.sent_us,
    )


def _parts_us(sent: Sent | None, process: Span | None) -> tuple[int | None, int | None, int | None]:
    if process is None:
        if sent is None:
            return None, None, None
        return sent.enqueued_us - sent.sent_us, sent.acknowledged_us - sent.enqueued_us, None
    if sent is not None and process.timestamp:
        return sent.parts_us(process.timestamp)
    queued_ms = _number([process], _QUEUE_TIME)
    return None, None, queued_ms * 1000 if queued_ms is not None else None


def _number(spans: list[Span], tag: str) -> int | None:
    """Return the first of a tag's values that is a whole number; others can have written anything."""
    for span in spans:
        value = span.tags.get(tag, "")
        if value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS:
            return int(value)
    return None


def _service(span: Span | None) -> str | None:
    return span.local_endpoint.service_name if span is not None and span.local_endpoint else None
