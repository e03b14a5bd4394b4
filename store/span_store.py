"""The writing side of the span store: spans are held until a commit, then they are on disk."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from kaspan.store.damage import ERRORS, is_damage, is_unwritable
from kaspan.store.indexed_span import read_spans
from kaspan.store.lock import LOCK_NAME, StoreError, StoreHeld, acquire_lock
from kaspan.store.open_block import Trace
from kaspan.store.partition_writer import NewerFormatError, PartitionWriter, hour_of
from kaspan.store.partitions import Partition, list_files, list_partitions, set_aside
from kaspan.store.retention import Retention, boot_clock_s
from kaspan.store.schema import trace_key

__all__ = ["SpanStore", "StoreError", "StoreFull", "StoreHeld", "StoreSettings", "StoreTotals"]

PARTITIONS = 32
"""About how many partitions a full store has: this part of it is deleted at once."""
MIN_PARTITION_BYTES, MAX_PARTITION_BYTES = 4 << 20, 64 << 20
"""A search opens each partition, so they must not be small. In a large one, traces are slow to index."""
MIN_PARTITION_S = 600.0
"""A partition that is not full is not sealed before this age: a slow stream must not make many."""

_log = logging.getLogger("kaspan.store")


class StoreFull(StoreError):
    """The disk has no room. What is held stays held, and a later commit stores it."""


@dataclass(frozen=True)
class StoreSettings:
    """Where the store is, and how much it keeps.

    `path` is a directory. The oldest spans are deleted when its files have more than `max_bytes`, and when
    they were written more than `max_age_s` seconds ago. The others are Zipkin's STRICT_TRACE_ID,
    SEARCH_ENABLED and AUTOCOMPLETE_KEYS.
    """

    path: str
    max_bytes: int
    max_age_s: float
    strict_trace_id: bool = True
    search_enabled: bool = True
    autocomplete_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class StoreTotals:
    """What is in the store. A span that was delivered twice counts twice.

    `oldest_s` is about when the oldest span was written, in seconds since the epoch, 0 if there is none.
    `deleted_spans` counts those that were deleted by age or size since this process began to write.
    `damaged_partitions` are those that were moved aside and are still in the directory.
    """

    spans: int
    bytes: int
    partitions: int
    damaged_partitions: int
    deleted_spans: int
    oldest_s: float


class SpanStore:
    """Writes the store of `settings`; one process does, and calls all methods but `totals` from one thread.

    Raises StoreHeld if another process writes it, StoreError if it cannot be used. `held_spans` is how many
    spans wait for the next commit. `totals` is what there was after the last one.
    """

    def __init__(
        self,
        settings: StoreSettings,
        clock_s: Callable[[], float] = time.time,
        boot_clock_s: Callable[[], float] = boot_clock_s,
    ) -> None:
        self._settings = settings
        self._clock_s = clock_s
        self._boot_clock_s = boot_clock_s
        self._partition_bytes = partition_bytes(settings.max_bytes)
        self._held: dict[int, dict[int, Trace]] = {}
        self.held_spans = 0
        self._spans: dict[int, int] = {}
        self._oldest_s: dict[int, float] = {}
        self._deleted_spans = 0
        self._writer: PartitionWriter | None = None
        self._sealed: list[PartitionWriter] = []
        self._lock = acquire_lock(settings.path)
        self._retention = Retention(
            settings.path, settings.max_bytes, settings.max_age_s, clock_s, boot_clock_s
        )
        try:
            self._open()
            self._tidy()
        except (*ERRORS, OSError, NewerFormatError) as error:
            self._release()
            raise self._unusable(error) from error

    def _unusable(self, error: BaseException) -> StoreError:
        kind = StoreFull if is_unwritable(error) or isinstance(error, OSError) else StoreError
        return kind(f"the span store {self._settings.path} cannot be written: {error}")

    def _open(self) -> None:
        """Open all partitions, and go on with the newest one if it is not sealed."""
        for partition in list_partitions(self._settings.path):
            try:
                self._resume(partition)
            except ERRORS as error:
                if not is_damage(error):
                    raise
                set_aside(partition, error)

    def _resume(self, partition: Partition) -> None:
        if self._writer is not None:
            self._seal(self._writer)
        self._writer = self._opened(partition)
        if self._writer.is_sealed:
            self._seal(self._writer)

    def _opened(self, partition: Partition) -> PartitionWriter:
        writer = PartitionWriter(partition, self._settings.autocomplete_keys, self._clock_s())
        self._spans[partition.number] = writer.spans
        self._oldest_s[partition.number] = writer.first_s
        self._opened_s = self._boot_clock_s()
        return writer

    def adjust(self, max_bytes: int, max_age_s: float) -> None:
        """Use other limits from the next commit on. Any thread may call it."""
        self._settings = replace(self._settings, max_bytes=max_bytes, max_age_s=max_age_s)
        self._partition_bytes = partition_bytes(max_bytes)
        self._retention.adjust(max_bytes, max_age_s)

    def accept(self, spans: bytes) -> None:
        """Hold JSON spans joined by commas until the next commit.

        Raises ValueError if one of them is not a span; then none of them is held.
        """
        pairs = read_spans(spans)
        keys = {trace_id: trace_key(trace_id) for trace_id in {span.trace_id for _, span in pairs}}
        last_hour = None
        for pair in pairs:
            span = pair[1]
            hour = hour_of(span.timestamp)
            if hour != last_hour:
                last_hour, traces = hour, self._held.setdefault(hour, {})
            trace = traces.get(keys[span.trace_id])
            if trace is None:
                traces[keys[span.trace_id]] = [pair]
            else:
                trace.append(pair)
        self.held_spans += len(pairs)

    def commit(self) -> None:
        """Store what is held, and keep the limits; on return it is on disk. To be called when idle, too.

        Raises StoreFull if the disk has no room, StoreError if it cannot be written otherwise. What is held
        stays held then, for the next commit.
        """
        if self._held:
            try:
                self._write()
            except (*ERRORS, OSError) as error:
                self._tidy()  # what is deleted makes room for the next commit
                raise self._unusable(error) from error
            self._held = {}
            self.held_spans = 0
        self._tidy()

    def _write(self) -> None:
        """Write what is held, and once more into a new partition if this one is damaged or was removed."""
        for _ in range(3):
            writer = self._writer = self._writer or self._opened(self._next())
            try:
                writer.write(self._held)
            except ERRORS as error:
                if not is_damage(error):
                    raise
                self._give_up(writer)
                set_aside(writer.partition, error)
                continue
            if writer.is_in_place():
                self._spans[writer.partition.number] = writer.spans
                return
            self._give_up(writer)
            _log.error("partition %s was removed; a new one is started", writer.partition.path)
            self._lock_again()
        raise sqlite3.OperationalError(f"no partition can be written in {self._settings.path}")

    def _give_up(self, writer: PartitionWriter) -> None:
        with suppress(sqlite3.Error):
            writer.close()
        self._writer = None
        self._spans.pop(writer.partition.number, None)

    def _next(self) -> Partition:
        numbers = [0, *self._spans, *list_files(self._settings.path)]
        return Partition(max(numbers) + 1, self._settings.path)

    def _lock_again(self) -> None:
        """Make the directory and the lock anew if they were removed."""
        try:
            found = os.stat(os.path.join(self._settings.path, LOCK_NAME))
            if os.path.samestat(found, os.fstat(self._lock)):
                return
        except FileNotFoundError:
            pass
        before, self._lock = self._lock, acquire_lock(self._settings.path)
        os.close(before)

    def _tidy(self) -> None:
        """Seal the partition if it is large or old, delete what is beyond a limit, and count the rest."""
        try:
            if self._writer is not None and self._is_complete(self._writer):
                self._seal(self._writer)
            self._close_sealed()
        except ERRORS as error:
            if self._writer is not None and is_damage(error):
                writer = self._writer
                self._give_up(writer)
                set_aside(writer.partition, error)
            _log.debug("no partition of the span store %s can be sealed: %s", self._settings.path, error)
        newest = self._writer.partition.number if self._writer else self._next().number
        kept = self._retention.check(newest)
        self._deleted_spans += sum(self._spans.get(number, 0) for number in kept.deleted)
        self._spans = {number: spans for number, spans in self._spans.items() if number in kept.numbers}
        self.totals = StoreTotals(
            spans=sum(self._spans.values()),
            bytes=kept.bytes,
            partitions=len(kept.numbers),
            damaged_partitions=kept.damaged,
            deleted_spans=self._deleted_spans,
            oldest_s=min((self._oldest_s[number] for number in self._spans), default=0.0),
        )

    def _close_sealed(self) -> None:
        for writer in list(self._sealed):
            if writer.checkpoint():
                writer.close()
                self._sealed.remove(writer)

    def _is_complete(self, writer: PartitionWriter) -> bool:
        if not writer.spans:
            return False
        age_s = max(self._clock_s() - writer.first_s, self._boot_clock_s() - self._opened_s)
        max_age_s = max(MIN_PARTITION_S, self._settings.max_age_s / PARTITIONS)
        return writer.bytes() >= self._partition_bytes or age_s >= max_age_s

    def _seal(self, writer: PartitionWriter) -> None:
        if not writer.is_sealed:
            writer.seal(self._clock_s())
        self._sealed.append(writer)
        self._writer = None

    def close(self) -> None:
        """Store what is held, and release the store. Raises StoreFull or StoreError if that fails."""
        try:
            self.commit()
        finally:
            self._release()

    def _release(self) -> None:
        for writer in (*self._sealed, *([self._writer] if self._writer else [])):
            with suppress(sqlite3.Error):
                writer.close()
        os.close(self._lock)


def partition_bytes(max_bytes: int) -> int:
    """Return at what size a partition is sealed."""
    share = max(MIN_PARTITION_BYTES, min(max_bytes // PARTITIONS, MAX_PARTITION_BYTES))
    return min(share, max_bytes // 4)
