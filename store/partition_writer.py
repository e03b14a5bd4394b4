"""Writes one partition: each `write` is one transaction, on disk when it returns."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

from kaspan.store.blocks import decompress_spans
from kaspan.store.indexed_span import read_spans
from kaspan.store.open_block import OpenBlock, Trace
from kaspan.store.partitions import Partition
from kaspan.store.schema import FORMAT, MAX_TIMESTAMP_US, TABLES, trace_key
from kaspan.store.tables import Tables

HOUR_US = 3_600_000_000
UNTIMED, MIXED = -1, -2
"""In place of an hour: spans without a timestamp, and spans of hours that have no block of their own."""
MAX_OPEN_HOURS = 6
"""How many hours have an open block: right clocks need two, and wrong clocks may tell any hour."""
IDLE_SPANS = 32 * 1024
"""After so many spans of other hours, an hour's block ends if another hour needs its place."""

_PRAGMAS = (
    "pragma journal_mode=wal",
    "pragma synchronous=full",
    "pragma cache_size=-8192",
    "pragma journal_size_limit=8388608",
    # By default Debian's SQLite overwrites deleted content with zeros.
    "pragma secure_delete=off",
)

Held = Mapping[int, Mapping[int, Trace]]
"""Spans by hour and trace."""


class NewerFormatError(Exception):
    """The partition was made by a newer kaspan."""


def hour_of(timestamp_us: int | None) -> int:
    """Return the hour of a timestamp, counted from the epoch, or UNTIMED."""
    if timestamp_us and 0 < timestamp_us <= MAX_TIMESTAMP_US:
        return timestamp_us // HOUR_US
    return UNTIMED


class PartitionWriter:
    """The partition that is written; its tables are made if they are missing.

    Values of the tags in `autocomplete_keys` are collected. Methods raise errors of SQLite, DamagedBlockError
    and NewerFormatError. After an error nothing of that call is in the file, and it may be called again.
    """

    def __init__(self, partition: Partition, autocomplete_keys: Collection[str], now_s: float) -> None:
        self.partition = partition
        self._autocomplete_keys = frozenset(autocomplete_keys)
        is_new = not os.path.exists(partition.path)
        # SQLite would create it with the umask's mode; its other files get the mode of this one.
        os.close(os.open(partition.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._connection = sqlite3.connect(partition.path, isolation_level=None, check_same_thread=False)
        self._identity = os.stat(partition.path)
        self._sealed_s: float | None = None
        try:
            for pragma in _PRAGMAS:
                self._connection.execute(pragma)
            self._create(now_s)
            self._load()
        except BaseException:
            self._connection.close()
            if is_new:  # else each attempt on a full disk would leave a file without tables
                os.unlink(partition.path)
            raise

    def _create(self, now_s: float) -> None:
        (version,) = self._connection.execute("pragma user_version").fetchone()
        if version > FORMAT:
            raise NewerFormatError(f"{self.partition.path} was made by a newer kaspan (format {version})")
        if version == 0:
            self._transact(lambda: self._make_tables(now_s))
        state = self._connection.execute("select first_s, is_sealed from state").fetchone()
        if state is None:
            raise sqlite3.DatabaseError("it has no state")
        self.first_s, self.is_sealed = float(state[0]), bool(state[1])

    def _make_tables(self, now_s: float) -> None:
        for statement in (*TABLES, f"pragma user_version={FORMAT}"):
            self._connection.execute(statement)
        self._connection.execute("insert into state values (?, 0)", (now_s,))

    def _load(self) -> None:
        """Read what the file has of open blocks: at the start, and after an error."""
        self._tables = Tables(self._connection)
        self.spans, last_id = self._connection.execute(
            "select coalesce(sum(spans), 0), coalesce(max(id), 0) from blocks"
        ).fetchone()
        self._next_id = last_id + 1
        self._open: dict[int, OpenBlock] = {}
        self._last_use: dict[int, int] = {}
        select = "select id, min_us, max_us from blocks where is_open order by id"
        for block_id, min_us, max_us in self._connection.execute(select).fetchall():
            hour = hour_of(min_us) if hour_of(min_us) == hour_of(max_us) else MIXED
            # A mixed block may have spans of one hour up to now, and that hour a block of its own.
            hour = MIXED if hour in self._open else hour
            self._open[hour] = self._load_block(block_id)
            self._last_use[hour] = self.spans
        self._is_loaded = True

    def _load_block(self, block_id: int) -> OpenBlock:
        block = OpenBlock(block_id, bool(self._autocomplete_keys))
        for body in self._tables.bodies(block_id):
            for pair in read_spans(decompress_spans(body)):
                block.add(trace_key(pair[1].trace_id), [pair])
            block.stored(replaced=False)
        return block

    def _transact(self, work: Callable[[], None]) -> None:
        try:
            self._connection.execute("begin immediate")
            work()
            self._connection.execute("commit")
        except BaseException:
            self._is_loaded = False
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # SQLite has rolled back itself where this fails
                    self._connection.execute("rollback")
            raise

    def write(self, held: Held) -> None:
        """Store spans."""
        if not self._is_loaded:
            self._load()
        self._transact(lambda: self._write(held))

    def _write(self, held: Held) -> None:
        # Hours with many spans first: they get the places.
        for hour in sorted(held, key=lambda hour: -len(held[hour])):
            self._write_hour(hour, held[hour])
        for block in self._open.values():
            self._tables.store(block, False, self._autocomplete_keys)
        self._tables.store_traces()

    def _write_hour(self, hour: int, traces: Mapping[int, Trace]) -> None:
        place = hour
        for trace, spans in traces.items():
            added = 0
            while added < len(spans):
                block = self._open.get(place)
                if block is None:
                    place = self._place_of(hour)
                    block = self._open.get(place) or self._begin(place)
                count = block.add(trace, spans[added:] if added else spans)
                added += count
                self.spans += count
                if block.is_full:
                    self._end(place)
        if place in self._open:
            self._last_use[place] = self.spans

    def _begin(self, hour: int) -> OpenBlock:
        block = self._open[hour] = OpenBlock(self._next_id, bool(self._autocomplete_keys))
        self._next_id += 1
        return block

    def _place_of(self, hour: int) -> int:
        """Return the hour, or MIXED if it has no block and cannot get one."""
        if hour in self._open or hour < 0:
            return hour
        others = [other for other in self._open if other >= 0]
        if len(others) >= MAX_OPEN_HOURS:
            oldest = min(others, key=self._last_use.__getitem__)
            if self.spans - self._last_use[oldest] < IDLE_SPANS:
                return MIXED
            self._end(oldest)
        return hour

    def _end(self, hour: int) -> None:
        self._tables.store(self._open.pop(hour), True, self._autocomplete_keys)
        self._last_use.pop(hour, None)

    def seal(self, now_s: float) -> None:
        """End all blocks and mark the partition as complete: it is never written again."""
        if not self._is_loaded:
            self._load()
        self._transact(self._seal)
        self.is_sealed = True
        self._sealed_s = now_s

    def _seal(self) -> None:
        for hour in list(self._open):
            self._end(hour)
        self._tables.store_traces()
        self._tables.group()
        self._connection.execute("update state set is_sealed = 1")

    def checkpoint(self) -> bool:
        """Move the write-ahead log into the file; return False if a reader prevents it."""
        self._connection.execute("pragma busy_timeout=0")
        busy, _, _ = self._connection.execute("pragma wal_checkpoint(truncate)").fetchone()
        return not busy

    def is_in_place(self) -> bool:
        """Whether the file was neither removed nor replaced."""
        try:
            return os.path.samestat(os.stat(self.partition.path), self._identity)
        except FileNotFoundError:
            return False

    def bytes(self) -> int:
        """Return the size of the file, with all that is in the write-ahead log."""
        (pages,) = self._connection.execute("pragma page_count").fetchone()
        (page_bytes,) = self._connection.execute("pragma page_size").fetchone()
        return int(pages * page_bytes)

    def close(self) -> None:
        """Close the file. What was written stays, and is found by the next one that opens it."""
        self._connection.close()
        if self._sealed_s is not None:
            with suppress(FileNotFoundError):
                os.utime(self.partition.path, (self._sealed_s, self._sealed_s))
