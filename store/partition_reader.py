"""Reads one partition, of this process's writer or of another's, also while it is written.

What cannot be read is as if it was not there: it is reported once and counted, and the answer has the rest.

Source: schema.py has the tables.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from kaspan.store.blocks import DamagedBlockError, decompress_spans
from kaspan.store.schema import MAX_PARTS
from kaspan.store.terms import find_blocks

_CACHE_KIB = 256
_BUSY_TIMEOUT_S = 2.0
_BLOCKS_OF_TRACES = """
    select trace, block from json_each(?) join traces on trace = value
    where block not in (select value from json_each(?))"""

Report = Callable[[str, Exception], None]
"""Takes what is damaged, the name of a partition or of its block, and the error."""


class BlockRow(NamedTuple):
    """A block, or what a block has of one service: bounds of timestamps, None without any, and durations."""

    block: int
    min_us: int | None
    max_us: int | None
    durations: int


class UnmadeError(sqlite3.DatabaseError):
    """The partition has no tables, or not yet: its writer is just making it."""


class Bounds(NamedTuple):
    """What all blocks of a partition have, and whether there are blocks without timestamps."""

    min_us: int | None
    max_us: int | None
    durations: int
    has_untimed: bool

    @property
    def has_blocks(self) -> bool:
        """Whether there is any block."""
        return self.has_untimed or self.min_us is not None


class PartitionReader:
    """One open partition, until the last reference to it goes. Any thread may call any method.

    `is_sealed` says that it never changes again. Raises sqlite3.Error and OSError if it cannot be opened.
    """

    def __init__(self, path: str, is_sealed: bool, report: Report) -> None:
        self.path = path
        self.is_sealed = is_sealed
        self._report = report
        self._lock = threading.Lock()
        self._is_damaged = False
        self._bounds: Bounds | None = None
        self._connection = _connect(path, is_sealed)
        weakref.finalize(self, self._connection.close)

    def _read(self, read: Callable[[sqlite3.Connection], Any], nothing: Any) -> Any:
        """Return what `read` does, or `nothing` from a damaged partition."""
        if self._is_damaged:
            return nothing
        try:
            with self._lock:
                return read(self._connection)
        except sqlite3.Error as error:
            self._is_damaged = True
            self._report(self.path, error)
            return nothing

    def _rows(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        rows: list[Any] = self._read(lambda connection: connection.execute(statement, values).fetchall(), [])
        return rows

    @property
    def is_damaged(self) -> bool:
        """Whether reading has failed."""
        return self._is_damaged

    def bounds(self) -> Bounds:
        """Return the bounds of all blocks."""
        if self._bounds is not None:
            return self._bounds
        select = "select min(min_us), max(max_us), max(durations), max(min_us is null) from blocks"
        min_us, max_us, durations, has_untimed = (self._rows(select) or [(None, None, 0, 0)])[0]
        bounds = Bounds(min_us, max_us, durations or 0, bool(has_untimed))
        if self.is_sealed:
            self._bounds = bounds
        return bounds

    def blocks(self) -> list[BlockRow]:
        """Return all blocks."""
        return list(map(BlockRow._make, self._rows("select id, min_us, max_us, durations from blocks")))

    def blocks_with_ids(self, blocks: Collection[int]) -> list[BlockRow]:
        """Return some blocks, by their ids."""
        if not blocks:
            return []
        select = """select blocks.id, min_us, max_us, durations
            from json_each(?) as wanted join blocks on blocks.id = wanted.value"""
        return list(map(BlockRow._make, self._rows(select, (json.dumps(sorted(blocks)),))))

    def blocks_of_service(self, service: str) -> list[BlockRow]:
        """Return the blocks with spans of a service, whose name is in lower case."""
        select = (
            "select block, min_us, max_us, durations from services where service = "
            "(select id from service_names where name = ?)"
        )
        return list(map(BlockRow._make, self._rows(select, (service,))))

    def blocks_of_term(self, term: bytes, service: str | None) -> set[int]:
        """Return the ids of blocks that may have a span with a term, of a service if one is given."""
        found: set[int] = self._read(lambda connection: find_blocks(connection, term, service), set())
        return found.union(row[0] for row in self._rows("select id from blocks where is_open"))

    def blocks_of_traces(self, keys: Iterable[int], besides: Sequence[int] = ()) -> list[tuple[int, int]]:
        """Return pairs of a trace, by its `trace_key`, and a block with spans of it, in order of blocks.

        `besides` are blocks that are left out.
        """
        # In order, since neighbours in the index share a page.
        rows = self._rows(_BLOCKS_OF_TRACES, (json.dumps(sorted(keys)), json.dumps(besides)))
        return sorted(rows, key=_block_of)

    def spans(self, block: int) -> list[bytes]:
        """Return the JSON spans of a block, joined by commas, in parts; what is damaged is left out."""
        return self.counted_spans(block)[1]

    def counted_spans(self, block: int) -> tuple[int, list[bytes]]:
        """Return how many spans a block has, and their JSON, joined by commas, in parts that can be read."""
        # In one statement, since the block may just get more.
        select = """select spans, body from blocks join bodies on bodies.id >= ? and bodies.id < ?
            where blocks.id = ?"""
        first = block * MAX_PARTS
        rows = self._rows(select, (first, first + MAX_PARTS, block))
        parts = []
        for _, body in rows:
            try:
                parts.append(decompress_spans(body))
            except DamagedBlockError as error:
                self.report_block(block, error)
        return rows[0][0] if rows else 0, parts

    def report_block(self, block: int, error: Exception) -> None:
        """Report a block that cannot be decoded."""
        self._report(f"{self.path}, block {block}", error)

    def names(self, statement: str, values: Sequence[object] = ()) -> Iterable[str]:
        """Return a column of names."""
        return [row[0] for row in self._rows(statement, values)]


def _block_of(pair: tuple[int, int]) -> int:
    return pair[1]


def _connect(path: str, is_sealed: bool) -> sqlite3.Connection:
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    if is_sealed:
        return _opened(f"{uri}&immutable=1")
    try:
        return _opened(uri)
    except sqlite3.OperationalError:
        if os.path.exists(f"{path}-wal"):
            raise
        # The writer is gone, and SQLite may not make its files here to say that somebody reads.
        return _opened(f"{uri}&immutable=1")


def _opened(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S
    )
    try:
        connection.execute(f"pragma cache_size=-{_CACHE_KIB}")
        if connection.execute("pragma user_version").fetchone() == (0,):
            raise UnmadeError("it has no tables")
        connection.execute("select count(*) from blocks").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection
