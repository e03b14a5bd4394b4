"""The traces of some blocks, as they were before these blocks and as they are with them.

How much is read is bounded: beside these blocks, EARLIER_BLOCKS blocks of the same partition and, for traces
that are in its first blocks, of the partition before, and so on. Spans that come later than that are a trace
of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

import msgspec

from kaspan.insight.trace import TraceSpan
from kaspan.store.block_cache import Ids, low_id
from kaspan.store.link_spans import decode_link_spans
from kaspan.store.normal_form import decode_span, take_apart
from kaspan.store.partition_reader import PartitionReader
from kaspan.store.schema import trace_key
from kaspan.store.trace_reader import arranged
from kaspan.wire.span import Span

EARLIER_BLOCKS = 32
"""How many blocks are read for earlier spans of the traces of a group of blocks, at most."""
FIRST_BLOCKS = 128
"""The blocks of a partition that may go on with traces of the partition before it."""

Place = tuple[PartitionReader, int]
"""A block of a partition."""

Known = Mapping[str, Collection[int]]
"""The blocks that were looked at before, by the path of their partition."""

_id = attrgetter("id")
_decode_ids = msgspec.json.Decoder(list[Ids]).decode


class ChangedTrace(NamedTuple):
    """A trace without and with its new spans, and in which blocks the spans before are."""

    before: Sequence[TraceSpan]
    after: Sequence[TraceSpan]
    known: Sequence[Place]


def changed_traces(
    partitions: Sequence[PartitionReader], blocks: Sequence[int], known: Known
) -> Iterator[ChangedTrace]:
    """Yield each trace that has spans in blocks of the last of the partitions."""
    new_places = [(partitions[-1], block) for block in blocks]
    new = _load(new_places)
    earlier = _find(new, partitions, blocks, known)
    old = _load(_distinct(*earlier.values()), earlier)
    repeating = {low for low, spans in new.items() if _repeats([*old.get(low, ()), *spans])}
    whole_old = _load_whole(_distinct(*(earlier.get(low, ()) for low in repeating)), repeating)
    whole_new = _load_whole(new_places, repeating)
    for low, spans in new.items():
        places = earlier.get(low, ())
        if low in repeating:
            before = whole_old.get(low, [])
            yield ChangedTrace(_arranged(before), _arranged([*before, *whole_new.get(low, [])]), places)
        elif low in old:
            yield ChangedTrace(old[low], [*old[low], *spans], places)
        else:
            yield ChangedTrace((), spans, places)


def _distinct(*places: Iterable[Place]) -> list[Place]:
    return list(dict.fromkeys(chain.from_iterable(places)))


def _find(
    lows: Iterable[str], partitions: Sequence[PartitionReader], blocks: Sequence[int], known: Known
) -> dict[str, list[Place]]:
    """Return in which known blocks traces are, if these are among the last EARLIER_BLOCKS of all traces."""
    keys = {trace_key(low): low for low in lows}
    found: list[tuple[str, Place]] = []
    wanted: Collection[int] = keys
    for partition in reversed(partitions):
        known_blocks = known.get(partition.path, ())
        pairs = [pair for pair in partition.blocks_of_traces(wanted, blocks) if pair[1] in known_blocks]
        found[:0] = [(keys[key], (partition, block)) for key, block in pairs]
        if not blocks or min(blocks) > FIRST_BLOCKS:
            wanted = {key for key, block in pairs if block <= FIRST_BLOCKS}
        if not wanted:
            break
        blocks = ()
    last = set(_distinct(place for _, place in found)[-EARLIER_BLOCKS:])
    places: dict[str, list[Place]] = {}
    for low, place in found:
        if place in last:
            places.setdefault(low, []).append(place)
    return places


def _load(places: Iterable[Place], lows: Collection[str] | None = None) -> dict[str, list[TraceSpan]]:
    """Return the spans of traces in blocks, by the low 64 bits of their ids."""
    found: dict[str, list[TraceSpan]] = {}
    for partition, block in places:
        for part in partition.spans(block):
            try:
                spans = decode_link_spans(part)
            except ValueError as error:
                partition.report_block(block, error)
                continue
            for span in spans:
                low = span.trace_id[-16:]
                if low in found:
                    found[low].append(span)
                elif lows is None or low in lows:
                    found[low] = [span]
    return found


def _repeats(spans: Sequence[TraceSpan]) -> bool:
    """Whether spans of a trace may be pieces of one, or the same one twice: then all their fields count."""
    if len(set(map(_id, spans))) == len(spans):
        return False
    return len({(span.id, span.shared) for span in spans}) < len(spans)


def _load_whole(places: Iterable[Place], lows: Set[str]) -> dict[str, list[Span]]:
    """Return some traces' spans with all their fields; what Zipkin would have refused is left out."""
    found: dict[str, list[Span]] = {}
    if lows:
        for partition, block in places:
            for part in partition.spans(block):
                for span in _decode_some(part, lows):
                    found.setdefault(span.trace_id[-16:], []).append(span)
    return found


def _decode_some(part: bytes, lows: Set[str]) -> Iterator[Span]:
    with suppress(ValueError):
        low_ids = [low_id(span.trace_id) for span in _decode_ids(b"[%b]" % part)]
        if not lows.isdisjoint(low_ids):
            for low, payload in zip(low_ids, take_apart(part), strict=True):
                if low in lows:
                    with suppress(ValueError):
                        yield decode_span(payload)


def _arranged(spans: Iterable[Span]) -> list[Span]:
    """Return each span once, in the order of Zipkin's in-memory storage."""
    return arranged(list({msgspec.json.encode(span): span for span in spans}.values()))
