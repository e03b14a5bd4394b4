"""The order in which a search walks the blocks of its condition, without listing those it does not reach."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count
from operator import itemgetter
from typing import NamedTuple

from kaspan.store.conditions import Condition
from kaspan.store.partition_reader import BlockRow, Bounds, PartitionReader
from kaspan.store.query_request import QueryRequest

_SAMPLED = 4  # partitions
_INSIDE, _OUTSIDE = 0, 1  # the time of the search
_MAX_BLOCK = 2**62

_Order = tuple[int, int, int]


class Candidate(NamedTuple):
    """A block that may have a span that meets the condition.

    `bound` is the highest rank that its spans can give a trace: milliseconds, or with order `longest`
    microseconds. `is_outside` says that none of its spans is in the time of the search.
    """

    partition: PartitionReader
    block: int
    bound: int
    is_outside: bool


class BlockWalk:
    """Walks blocks that have spans in the time of a search, the best first, and then the nearest others."""

    def __init__(self, request: QueryRequest, partitions: Sequence[PartitionReader]) -> None:
        self._first_us = request.first_us
        self._last_us = request.last_us + 999  # a span's milliseconds are compared
        self._is_longest = request.order == "longest"
        bounds = [(partition.bounds(), partition) for partition in partitions]
        with_blocks = [(bound, partition) for bound, partition in bounds if bound.has_blocks]
        self._partitions = [(self._order_of_partition(bound), partition) for bound, partition in with_blocks]
        self._bounds = [(self.bound(_row(bound)), partition) for bound, partition in with_blocks]

    def rarest(self, conditions: Sequence[Condition]) -> Condition:
        """Return the condition that has the fewest blocks in the partitions that come first."""
        if len(conditions) == 1:
            return conditions[0]
        counts = [0] * len(conditions)
        in_order = sorted(self._partitions, key=itemgetter(0))
        for sampled, (order, partition) in enumerate(in_order):
            if order[0] == _OUTSIDE or (sampled >= _SAMPLED and any(counts)):
                break
            for index, condition in enumerate(conditions):
                counts[index] += sum(map(self._is_inside, condition.blocks(partition)))
        return conditions[counts.index(min(counts))]

    def partitions_with(self, rank: int) -> list[PartitionReader]:
        """Return the partitions that have spans which can give a trace this rank."""
        return [partition for bound, partition in self._bounds if bound >= rank]

    def walk(self, condition: Condition) -> Iterator[Candidate]:
        """Yield the blocks of a condition."""
        numbers = count()
        heap: list[tuple[_Order, int, PartitionReader, BlockRow | None]]
        heap = [(order, next(numbers), partition, None) for order, partition in self._partitions]
        heapq.heapify(heap)
        while heap:
            order, _, partition, row = heapq.heappop(heap)
            if row is not None:
                yield Candidate(partition, row.block, self.bound(row), order[0] == _OUTSIDE)
                continue
            for row in condition.blocks(partition):
                heapq.heappush(heap, (self._order(row), next(numbers), partition, row))

    def _is_inside(self, row: BlockRow) -> bool:
        if row.min_us is None or row.max_us is None:
            return False
        return row.min_us <= self._last_us and row.max_us >= self._first_us

    def _order(self, row: BlockRow) -> _Order:
        """Return the place of a block in the walk: the lowest comes first."""
        if row.min_us is None or row.max_us is None:
            return _OUTSIDE, 0, -row.block
        if not self._is_inside(row):
            return _OUTSIDE, max(row.min_us - self._last_us, self._first_us - row.max_us), 0
        newest_us = min(row.max_us, self._last_us)
        return _INSIDE, -row.durations.bit_length() if self._is_longest else 0, -newest_us

    def _order_of_partition(self, bounds: Bounds) -> _Order:
        """Return the place of the first of a partition's blocks, or one before it."""
        order = self._order(_row(bounds))
        return (_OUTSIDE, 0, -_MAX_BLOCK) if order[0] == _OUTSIDE and bounds.has_untimed else order

    def bound(self, row: BlockRow) -> int:
        """Return the highest rank that the spans of a block can give a trace."""
        if self._is_longest:
            return (1 << row.durations.bit_length()) - 1
        return -1 if row.max_us is None else min(row.max_us, self._last_us) // 1000


def _row(bounds: Bounds) -> BlockRow:
    return BlockRow(0, bounds.min_us, bounds.max_us, bounds.durations)
