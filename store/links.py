"""Zipkin's dependency links of a time, at a cost that does not grow with what is stored.

Blocks of spans are counted once, in groups, by a thread of the agent (LinkCounter), and their links are kept
by minute. A query adds those up, and counts the few blocks that are not counted yet.

Source: InMemoryStorage of Zipkin 3: the links of all traces that have a span in the time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from kaspan.insight.links import DependencyLink, DependencyLinker
from kaspan.insight.trace import TraceSpan
from kaspan.store.changed_traces import ChangedTrace, Known, changed_traces
from kaspan.store.damage import is_damage
from kaspan.store.limits import Budget, QueryLimitError
from kaspan.store.link_counts import (
    Minutes,
    add_counts,
    counted_blocks,
    discard_counts,
    links_path,
    read_counts,
)
from kaspan.store.partition_reader import PartitionReader
from kaspan.store.partition_readers import PartitionReaders
from kaspan.store.span_store import StoreSettings

GROUP_BLOCKS = 16
"""How many blocks are counted together. A trace that is in two groups is read twice."""
MAX_TRIES = 3
"""How often a partition may be unreadable; then its blocks are left to queries."""
MINUTE_US = 60_000_000
_MAX_MINUTE = 2**62
_log = logging.getLogger("kaspan.store")


class LinkCounter:
    """Counts the links of a store's spans. One process does, and calls the methods from one thread."""

    def __init__(self, settings: StoreSettings, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._partitions = PartitionReaders(settings.path, clock_s)
        self._counted: dict[str, set[int]] = {}
        self._unreadable: Counter[str] = Counter()
        self._failed = ""

    def count(self, budget_s: float) -> bool:
        """Count for about `budget_s` seconds, at least one group of blocks, and return whether there is more.

        Waits for the disk, but neither for the writer nor for queries. A failure is logged, once for each
        cause; then nothing is counted until the next call, and each query counts what is missing.
        """
        deadline_s = self._clock_s() + budget_s
        try:
            while (group := self._next_group()) is not None:
                self._count(*group)
                self._failed = ""
                if self._clock_s() >= deadline_s:
                    return True
        except (sqlite3.Error, OSError) as error:
            if str(error) != self._failed:
                self._failed = str(error)
                _log.warning("the links of stored spans cannot be counted: %s", error)
            return False
        return False

    def _next_group(self) -> tuple[list[PartitionReader], list[int]] | None:
        """Return blocks to count, of the oldest partition that has any, and the partitions up to it."""
        partitions = self._partitions.all()
        paths = {partition.path for partition in partitions}
        self._counted = {path: blocks for path, blocks in self._counted.items() if path in paths}
        for index, partition in enumerate(partitions):
            counted = self._blocks_counted(partition)
            blocks = [block for block in _blocks(partition, "where not is_open") if block not in counted]
            if self._unreadable[partition.path] >= MAX_TRIES:
                continue
            if len(blocks) >= GROUP_BLOCKS or (blocks and partition.is_sealed):
                return partitions[: index + 1], blocks[:GROUP_BLOCKS]
        return None

    def _blocks_counted(self, partition: PartitionReader) -> set[int]:
        path = links_path(partition.path)
        if partition.path not in self._counted or not os.path.exists(path):
            try:
                self._counted[partition.path] = counted_blocks(path)
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                _log.warning("%s is damaged, and is made again: %s", path, error)
                discard_counts(path)
                self._counted[partition.path] = set()
        return self._counted[partition.path]

    def _count(self, partitions: Sequence[PartitionReader], blocks: Sequence[int]) -> None:
        counts: defaultdict[Minutes, tuple[DependencyLinker, DependencyLinker]]
        counts = defaultdict(lambda: (DependencyLinker(), DependencyLinker()))
        for before, after, _ in changed_traces(partitions, blocks, self._counted):
            counts[minutes_of(after)][0].put_trace(after)
            if before:
                counts[minutes_of(before)][1].put_trace(before)
        partition = partitions[-1]
        if partition.is_damaged:
            self._unreadable[partition.path] += 1
            return
        path = links_path(partition.path)
        # Also if the write fails: it may have failed after the commit.
        counted = self._counted.pop(partition.path)
        add_counts(path, blocks, counts)
        self._counted[partition.path] = counted.union(blocks)
        if not os.path.exists(partition.path):
            # Retention deletes a partition's file last.
            discard_counts(path)

    def close(self) -> None:
        """Close all files."""
        self._partitions.close()


def minutes_of(spans: Iterable[TraceSpan]) -> Minutes:
    """Return the minutes since the epoch in which the first and the last span of a trace began.

    A span without a timestamp counts only if none has one: then both are 0, as in Zipkin.
    """
    times_us = [span.timestamp for span in spans if span.timestamp is not None]
    return (min(times_us) // MINUTE_US, max(times_us) // MINUTE_US) if times_us else (0, 0)


@dataclass(frozen=True)
class Window:
    """The time of a query, in milliseconds since the epoch, both ends included."""

    first_ms: int
    last_ms: int

    def has(self, spans: Iterable[TraceSpan]) -> bool:
        """Whether a span of a trace begins in this time; one without a timestamp begins at 0."""
        return any(self.first_ms <= (span.timestamp or 0) // 1000 <= self.last_ms for span in spans)

    def minutes(self) -> Minutes:
        """Return the first and the last minute."""
        return max(self.first_ms // 60_000, -_MAX_MINUTE), min(self.last_ms // 60_000, _MAX_MINUTE)

    def touches(self, minutes: Minutes) -> bool:
        """Whether a trace that lasts from one minute to another is in this time, rounded to minutes."""
        first, last = self.minutes()
        return first <= minutes[1] and minutes[0] <= last


class _Sum:
    """Links, added and taken away."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, links: Iterable[DependencyLink], sign: int = 1) -> None:
        for link in links:
            counts = self._counts[link.parent, link.child]
            counts[0] += sign * link.call_count
            counts[1] += sign * link.error_count

    def links(self) -> list[DependencyLink]:
        """Return the links, sorted.

        Counts below zero come from traces whose beginning was deleted with its partition.
        """
        return [
            DependencyLink(parent, child, calls, max(errors, 0))
            for (parent, child), (calls, errors) in sorted(self._counts.items())
            if calls > 0
        ]


def get_dependencies(
    partitions: Sequence[PartitionReader], window: Window, budget: Budget
) -> list[DependencyLink]:
    """Return the links of all traces in the time, sorted by parent and child.

    Of blocks that are counted already, a trace is in the time from its first to its last minute. Raises
    QueryLimitError if too much is not counted yet.
    """
    total = _Sum()
    known: dict[str, set[int]] = {}
    # The newest first: when a partition is counted, those before it are, and it counts on that.
    for partition in reversed(partitions):
        budget.check_time()
        known[partition.path], links = _read_counts(partition, window)
        total.add(links)
    settled = {path: frozenset(blocks) for path, blocks in known.items()}
    added, removed = DependencyLinker(), DependencyLinker()
    for index, partition in enumerate(partitions):
        blocks = [block for block in _blocks(partition) if block not in known[partition.path]]
        for start in range(0, len(blocks), GROUP_BLOCKS):
            _check_time(budget)
            group = blocks[start : start + GROUP_BLOCKS]
            for trace in changed_traces(partitions[: index + 1], group, known):
                if window.has(trace.after):
                    added.put_trace(trace.after)
                if trace.before and _was_added(trace, window, settled):
                    removed.put_trace(trace.before)
            known[partition.path].update(group)
    total.add(added.link())
    total.add(removed.link(), -1)
    return total.links()


def _check_time(budget: Budget) -> None:
    try:
        budget.check_time()
    except QueryLimitError as error:
        raise QueryLimitError(
            "Too many spans are not counted yet, and to count them now takes too long. The agent counts them "
            "in the background: ask again in some minutes."
        ) from error


def _was_added(trace: ChangedTrace, window: Window, settled: Known) -> bool:
    """Whether a trace without its new spans is in the sum: of settled blocks by minutes, else exactly."""
    if all(block in settled[partition.path] for partition, block in trace.known):
        return window.touches(minutes_of(trace.before))
    return window.has(trace.before)


def _read_counts(partition: PartitionReader, window: Window) -> tuple[set[int], list[DependencyLink]]:
    path = links_path(partition.path)
    try:
        return read_counts(path, *window.minutes())
    except sqlite3.Error as error:
        _log.warning("%s cannot be read, and its links are counted again: %s", path, error)
        return set(), []


def _blocks(partition: PartitionReader, condition: str = "") -> list[int]:
    return [int(block) for block in partition.names(f"select id from blocks {condition} order by id")]  # noqa: S608  ours
