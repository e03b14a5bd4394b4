"""Blocks that a query has read, their spans decoded no further than the query needs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

from kaspan.store.normal_form import decode_span, take_apart
from kaspan.store.partition_reader import PartitionReader
from kaspan.wire.span import Span

_MAX_BYTES = 8 * 1024 * 1024


class Ids(msgspec.Struct, gc=False, rename="camel"):
    """The field that says to which trace a span belongs."""

    trace_id: str


class ServiceName(msgspec.Struct, gc=False, rename="camel"):
    """The field of an endpoint that a search reads."""

    service_name: str | None = None


class Times(Ids, gc=False, rename="camel"):
    """The fields that a search by service and duration reads."""

    timestamp: int | None = None
    duration: int | None = None
    local_endpoint: ServiceName | None = None


class AnnotationValue(msgspec.Struct, gc=False):
    """The field of an annotation that a search reads."""

    value: str


class Terms(Times, rename="camel"):
    """The fields that a search by name, tag or annotation reads."""

    name: str | None = None
    remote_endpoint: ServiceName | None = None
    annotations: list[AnnotationValue] = []
    tags: dict[str, str] = {}


def low_id(trace_id: str) -> str:
    """Return the lower 64 bits of a trace id, as 16 digits."""
    return trace_id.rjust(16, "0")[-16:]


class Part:
    """Some spans of a block. `fields` has what was decoded of each, and `low_ids` to which trace it belongs.

    What is decoded are `fields`, not in normal form, or else whole spans in normal form. Raises ValueError if
    `spans` are not JSON objects joined by commas.
    """

    def __init__(self, spans: bytes, fields: type[Ids]) -> None:
        self.bytes = len(spans)
        self._spans = spans
        self._payloads: list[bytes] | None = None
        self.fields: Sequence[Any]
        try:
            self.fields = _decoder(fields).decode(b"[%b]" % spans)
        except msgspec.MsgspecError:
            self._payloads, self.fields = _readable(take_apart(spans))
        self.low_ids = [low_id(span.trace_id) for span in self.fields]

    def payloads(self, low: str) -> list[bytes]:
        """Return the JSON of each span of a trace."""
        places = [place for place, other in enumerate(self.low_ids) if other == low]
        if not places:
            return []
        if self._payloads is None:
            self._payloads = take_apart(self._spans)
        return [self._payloads[place] for place in places]


@cache
def _decoder(fields: type[Ids]) -> msgspec.json.Decoder[list[Ids]]:
    return msgspec.json.Decoder(list[fields])  # type: ignore[valid-type]  # mypy knows no types of run time


def _readable(payloads: Iterable[bytes]) -> tuple[list[bytes], list[Span]]:
    """Leave out the spans that Zipkin would refuse, which a ring may have."""
    found: list[tuple[bytes, Span]] = []
    for payload in payloads:
        with suppress(ValueError):
            found.append((payload, decode_span(payload)))
    return [payload for payload, _ in found], [span for _, span in found]


class BlockCache:
    """The blocks that a query has read last. Each span is decoded to `fields`."""

    def __init__(self, fields: type[Ids]) -> None:
        self._fields = fields
        self._blocks: OrderedDict[tuple[str, int], list[Part]] = OrderedDict()
        self._bytes = 0

    def get(self, partition: PartitionReader, block: int) -> list[Part]:
        """Return the parts of a block that can be read."""
        key = (partition.path, block)
        parts = self._blocks.get(key)
        if parts is None:
            parts = self._blocks[key] = self._read(partition, block)
            self._bytes += sum(part.bytes for part in parts)
            while self._bytes > _MAX_BYTES and len(self._blocks) > 1:
                _, oldest = self._blocks.popitem(last=False)
                self._bytes -= sum(part.bytes for part in oldest)
        self._blocks.move_to_end(key)
        return parts

    def _read(self, partition: PartitionReader, block: int) -> list[Part]:
        parts = []
        for spans in partition.spans(block):
            try:
                parts.append(Part(spans, self._fields))
            except ValueError as error:
                partition.report_block(block, error)
        return parts
