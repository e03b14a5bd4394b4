"""Searches traces: walks the blocks of the rarest condition, and reads each trace found there whole.

The walk begins with the blocks that can bring the first traces of the answer, and ends when the blocks to
come cannot change the answer. Two things are bounded, for a search must not read the whole store: a block
tells only of the spans in it, so a trace may be found later than its newest span says (EXTRA_BLOCKS,
EXTRA_TRACES), and a span that meets a condition may be outside the time that was asked for, while its trace
is not (OUTSIDE_BLOCKS).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

from kaspan.store.block_cache import BlockCache, Part, Times
from kaspan.store.block_walk import BlockWalk, Candidate
from kaspan.store.conditions import conditions_of, service_of
from kaspan.store.limits import Budget
from kaspan.store.partition_reader import PartitionReader
from kaspan.store.query_request import QueryRequest, TraceTest
from kaspan.store.trace_reader import Blocks, Portion, TraceReader, grouped
from kaspan.wire.span import Span

EXTRA_BLOCKS = 4
"""How many blocks are read that, by their own spans, cannot bring a trace that comes first."""
EXTRA_TRACES = 256
"""How many traces are read that come first only by spans in other blocks than the one they are found in."""
EXTRA_LONGEST = 32
"""The same with order `longest`."""
OUTSIDE_BLOCKS = 16
"""How many blocks are read that have no span in the time of the search; the nearest ones."""
TIED_BLOCKS = 64
"""How many blocks are read that may bring a better trace, once there are enough traces."""
HELD_BYTES = 4 * 1024 * 1024
"""How much JSON of the traces found is kept decoded; the others are read again for the answer."""
_CHUNK = 16  # traces that are looked up together
_MAX_NOTED = 100_000  # traces


@dataclass(frozen=True, slots=True)
class Found:
    """Traces with the same lower 64 bits that match: those with `trace_ids`, of `bytes` of JSON in all.

    `rank` is what orders them, the highest first. `spans` are all spans of those lower 64 bits, None if they
    are to be read again.
    """

    low_id: str
    rank: int
    trace_ids: list[str]
    blocks: Blocks
    bytes: int
    spans: list[Span] | None

    @property
    def order(self) -> tuple[int, int]:
        """The place in the answer: the lowest comes first."""
        return -self.rank, -int(self.low_id, 16)


class Search:
    """One search over the partitions of a store."""

    def __init__(
        self,
        request: QueryRequest,
        partitions: Sequence[PartitionReader],
        strict_trace_id: bool,
        budget: Budget,
    ) -> None:
        self._request = request
        self._strict_trace_id = strict_trace_id
        self._budget = budget
        self._is_longest = request.order == "longest"
        self._first_ms = request.end_ts_ms - request.lookback_ms
        self._walk = BlockWalk(request, partitions)
        self._condition = self._walk.rarest(conditions_of(request))
        self._cache = BlockCache()
        self._reader = TraceReader(partitions, budget, self._cache)
        self._found: list[Found] = []
        self._count = self._held_bytes = 0
        self._examined: set[str] = set()
        self._extra_traces = EXTRA_LONGEST if self._is_longest else EXTRA_TRACES
        self._bounds: dict[tuple[str, int], int] = {}

    def traces(self) -> Iterator[Iterator[Portion]]:
        """Find the traces that match, then yield each, in portions."""
        self._find()
        for found in self._found:
            for trace_id in found.trace_ids:
                yield self._portions(found, trace_id)

    def _portions(self, found: Found, trace_id: str) -> Iterator[Portion]:
        if found.spans is not None:
            portions: Iterator[Portion] = iter([Portion(found.spans, found.bytes)])
        else:
            portions = self._reader.portions(found.low_id, found.blocks)
        for spans, size in portions:
            if not self._strict_trace_id:
                yield Portion(spans, size)
            elif mine := [span for span in spans if span.trace_id == trace_id]:
                yield Portion(mine, size * len(mine) // len(spans))

    def _find(self) -> None:
        extra = outside = tied = 0
        for candidate in self._walk.walk(self._condition):
            self._budget.check_time()
            is_extra = self._is_full and (candidate.is_outside or candidate.bound < self._found[-1].rank)
            outside += candidate.is_outside
            extra += is_extra
            tied += self._is_full and not is_extra
            if outside > OUTSIDE_BLOCKS or extra > EXTRA_BLOCKS or tied > TIED_BLOCKS:
                break
            if is_extra and not self._extra_traces:
                break
            self._search_block(candidate, is_extra)

    @property
    def _is_full(self) -> bool:
        return self._count >= self._request.limit

    def _search_block(self, candidate: Candidate, is_extra: bool) -> None:
        """Read the traces that have a span in this block that meets the condition."""
        if len(self._examined) > _MAX_NOTED:
            self._examined.clear()
        parts = self._cache.get(candidate.partition, candidate.block)
        ranks = self._ranks(parts, is_told=not is_extra)
        first: list[str] = []
        others: list[str] = []
        for low in sorted(ranks, key=lambda low: (ranks[low], low), reverse=True):
            is_first = not self._is_full or ranks[low] >= self._found[-1].rank
            (first if is_first else others).append(low)
            if len(first) == _CHUNK:
                self._examine(first)
                first = []
        self._examine(first)
        if not others or not self._extra_traces:
            return
        # With several parts, the ranks are not of the whole block. Long spans do not tell blocks apart.
        if len(parts) == 1 and not self._is_longest:
            others = self._promoted(others, candidate)
        others = others[: self._extra_traces]
        self._extra_traces -= len(others)
        for start in range(0, len(others), _CHUNK):
            self._examine(others[start : start + _CHUNK])

    def _promoted(self, low_ids: Sequence[str], candidate: Candidate) -> list[str]:
        """Return the traces that other blocks can bring before the last trace that was found."""
        rank = self._found[-1].rank
        here = (candidate.partition.path, candidate.block)
        places = self._reader.find(low_ids, self._walk.partitions_with(rank))
        self._note_bounds({place for blocks in places.values() for place in blocks})
        return [
            low
            for low in low_ids
            if any(
                self._bounds[place] >= rank
                for partition, block in places.get(low, ())
                if (place := (partition.path, block)) != here
            )
        ]

    def _note_bounds(self, blocks: Set[tuple[PartitionReader, int]]) -> None:
        """Look up what ranks some blocks can bring."""
        new: dict[PartitionReader, list[int]] = {}
        for partition, block in blocks:
            if (partition.path, block) not in self._bounds:
                new.setdefault(partition, []).append(block)
        for partition, ids in new.items():
            self._bounds.update({(partition.path, block): -1 for block in ids})
            for row in partition.blocks_with_ids(ids):
                self._bounds[partition.path, row.block] = self._walk.bound(row)

    def _ranks(self, parts: Sequence[Part], is_told: bool) -> dict[str, int]:
        """Return the traces with a span that meets the condition, and what these parts tell of their ranks.

        That is nothing, unless `is_told`.
        """
        ranks: dict[str, int] = {}
        for part in parts:
            for place in self._condition.places(part):
                low = part.low_id_at(place)
                if low in ranks or low in self._examined:
                    continue
                spans = map(part.times_at, part.around(place)) if is_told else ()
                ranks[low] = max((self._rank(span) if span else -1 for span in spans), default=-1)
        return ranks

    def _rank(self, span: Times | Span) -> int:
        """Return what a span makes of its trace's rank, -1 if it does not count."""
        if self._is_longest:
            service = self._request.service_name
            return (span.duration or 0) if service is None or service_of(span) == service else -1
        milliseconds = (span.timestamp or 0) // 1000
        return milliseconds if self._first_ms <= milliseconds <= self._request.end_ts_ms else -1

    def _examine(self, low_ids: Sequence[str]) -> None:
        """Read some traces whole, and keep those that match."""
        self._examined.update(low_ids)
        kept = {found.low_id for found in self._found}
        for low, blocks in self._reader.find([low for low in low_ids if low not in kept]).items():
            found = self._read(low, blocks)
            if found is not None:
                self._keep(found)

    def _read(self, low: str, blocks: Blocks) -> Found | None:
        whole = TraceTest(self._request)
        tests: dict[str, TraceTest] = {}
        rank, size, spans = -1, 0, None
        for number, portion in enumerate(self._reader.portions(low, blocks)):
            whole.add(portion.spans)
            if self._strict_trace_id:
                for trace in grouped(portion.spans, strict_trace_id=True):
                    tests.setdefault(trace[0].trace_id, TraceTest(self._request)).add(trace)
            rank = max(rank, *map(self._rank, portion.spans))
            size += portion.bytes
            spans = portion.spans if number == 0 else None
        if not whole.is_met:
            return None
        matching = [trace_id for trace_id, test in tests.items() if test.is_met]
        if not self._strict_trace_id:
            matching = [""]
        return Found(low, rank, matching, blocks, size, spans) if matching else None

    def _keep(self, found: Found) -> None:
        if found.spans is not None:
            if self._held_bytes + found.bytes > HELD_BYTES:
                found = replace(found, spans=None)
            else:
                self._held_bytes += found.bytes
        insort(self._found, found, key=lambda kept: kept.order)
        self._count += len(found.trace_ids)
        while self._count - len(self._found[-1].trace_ids) >= self._request.limit:
            self._drop(self._found.pop())

    def _drop(self, found: Found) -> None:
        self._count -= len(found.trace_ids)
        if found.spans is not None:
            self._held_bytes -= found.bytes
