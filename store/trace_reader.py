"""Reads whole traces: their distinct spans in the order in which Zipkin's in-memory storage has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from kaspan.store.block_cache import BlockCache
from kaspan.store.limits import Budget
from kaspan.store.normal_form import decode_span, decode_spans
from kaspan.store.partition_reader import PartitionReader
from kaspan.store.schema import trace_key
from kaspan.wire.span import Span

PORTION_BYTES = 4 * 1024 * 1024
"""A trace with more JSON comes in portions, and is never in memory as a whole."""


class Portion(NamedTuple):
    """Distinct spans of a trace, and the size of their JSON in the store."""

    spans: list[Span]
    bytes: int


Blocks = list[tuple[PartitionReader, int]]
"""Where a trace is, in order of arrival."""


class TraceReader:
    """Reads traces for one query, by the lower 64 bits of their ids."""

    def __init__(
        self, partitions: Sequence[PartitionReader], budget: Budget, blocks: BlockCache | None = None
    ) -> None:
        self._partitions = partitions
        self._budget = budget
        self._cache = blocks or BlockCache()

    def find(
        self, low_ids: Iterable[str], partitions: Sequence[PartitionReader] | None = None
    ) -> dict[str, Blocks]:
        """Return where traces are, in all partitions or in some; nothing for a trace that is not there."""
        by_key = {trace_key(low): low for low in low_ids}
        found: dict[str, Blocks] = {}
        for partition in self._partitions if partitions is None else partitions:
            self._budget.check_time()
            for key, block in partition.blocks_of_traces(list(by_key)):
                found.setdefault(by_key[key], []).append((partition, block))
        return found

    def portions(self, low: str, blocks: Blocks) -> Iterator[Portion]:
        """Yield a trace: a small one as a whole, a large one in portions of about PORTION_BYTES."""
        is_new = _Distinct()
        spans: list[Span] = []
        size = 0
        is_large = False
        for partition, block in blocks:
            self._budget.check_time()
            for part in self._cache.get(partition, block):
                payloads = part.of_trace(low)
                if spans and size + sum(map(len, payloads)) > PORTION_BYTES:
                    is_large = True
                    yield Portion(spans, size)
                    spans, size = [], 0
                spans += filter(is_new, _decode(payloads, partition, block))
                size += sum(map(len, payloads))
        if spans:
            yield Portion(spans if is_large else arranged(spans), size)


def _decode(payloads: Sequence[bytes], partition: PartitionReader, block: int) -> Iterator[Span]:
    try:
        yield from decode_spans(b",".join(payloads))
    except ValueError:
        for payload in payloads:
            try:
                yield decode_span(payload)
            except ValueError as error:
                partition.report_block(block, error)


class _Distinct:
    """Tells which spans of a trace come for the first time: a span may be delivered twice."""

    def __init__(self) -> None:
        self._digests: set[bytes] = set()

    def __call__(self, span: Span) -> bool:
        digest = blake2b(msgspec.json.encode(span), digest_size=16).digest()
        is_new = digest not in self._digests
        self._digests.add(digest)
        return is_new


def arranged(spans: list[Span]) -> list[Span]:
    """Put spans of one millisecond together, in the order in which the first of each came."""
    by_time: dict[int, list[Span]] = {}
    for span in spans:
        by_time.setdefault((span.timestamp or 0) // 1000, []).append(span)
    return [span for same_time in by_time.values() for span in same_time]


def grouped(spans: Iterable[Span], strict_trace_id: bool) -> list[list[Span]]:
    """Divide spans with the same lower 64 bits into traces: by all bits, unless those are enough."""
    by_id: dict[str, list[Span]] = {}
    for span in spans:
        by_id.setdefault(span.trace_id if strict_trace_id else "", []).append(span)
    return list(by_id.values())
