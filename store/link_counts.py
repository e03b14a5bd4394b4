"""The links that were counted of a partition's spans, in a file beside it.

The file is derived: without it, the spans are counted again. `blocks` are those whose spans are counted.
`minutes` has links by the first and the last minute of their traces, since the epoch, in which a span began.
`totals` are the same links without time, and `bounds` their first and last minute.

A trace whose spans come in several portions is counted at each of them: what its spans say so far is added,
what they said before is taken away. So a row may be negative, for a link that the partition before has too
often.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from urllib.parse import quote

from kaspan.insight.links import DependencyLink, DependencyLinker
from kaspan.store.partitions import SUFFIX

LINKS_SUFFIX = ".links"
FORMAT = 1
"""The version of these tables."""

Minutes = tuple[int, int]
"""The first and the last minute of a trace."""

Counts = Mapping[Minutes, tuple[DependencyLinker, DependencyLinker]]
"""The links to add and those to take away."""

_TABLES = (
    "create table blocks (id integer primary key)",
    """create table links (
        id integer primary key, parent text not null, child text not null, unique (parent, child))""",
    """create table minutes (
        first integer not null, last integer not null, link integer not null,
        calls integer not null, errors integer not null, primary key (first, last, link)) without rowid""",
    "create table totals (link integer primary key, calls integer not null, errors integer not null)",
    "create table bounds (first integer not null, last integer not null)",
    f"pragma user_version = {FORMAT}",
)
_ADD_MINUTE = """
    insert into minutes values (?, ?, (select id from links where parent = ? and child = ?), ?, ?)
    on conflict do update set calls = calls + excluded.calls, errors = errors + excluded.errors"""
_ADD_TOTAL = """
    insert into totals values ((select id from links where parent = ? and child = ?), ?, ?)
    on conflict do update set calls = calls + excluded.calls, errors = errors + excluded.errors"""


def links_path(partition_path: str) -> str:
    """Return where the counts of a partition are."""
    return partition_path.removesuffix(SUFFIX) + LINKS_SUFFIX


def counted_blocks(path: str) -> set[int]:
    """Return the blocks of a partition whose spans are counted. Raises sqlite3.Error if it cannot be read."""
    with _reading(path) as connection:
        return _blocks(connection) if connection is not None else set()


def read_counts(path: str, first: int, last: int) -> tuple[set[int], list[DependencyLink]]:
    """Return the counted blocks, and the links of traces that have spans from one minute to another.

    Counts may be negative. Raises sqlite3.Error if the file cannot be read.
    """
    with _reading(path) as connection:
        if connection is None:
            return set(), []
        connection.execute("begin")
        bounds = connection.execute("select first, last from bounds").fetchone()
        if bounds is None or bounds[1] < first or bounds[0] > last:
            rows = []
        elif first <= bounds[0] and bounds[1] <= last:
            select = "select parent, child, calls, errors from totals join links on id = link"
            rows = connection.execute(select).fetchall()
        else:
            select = """
                select parent, child, sum(calls), sum(errors) from minutes join links on id = link
                where first <= ? and last >= ? group by link"""
            rows = connection.execute(select, (last, first)).fetchall()
        return _blocks(connection), [DependencyLink(*row) for row in rows]


def add_counts(path: str, blocks: Iterable[int], counts: Counts) -> None:
    """Add and take away the links of blocks, in one transaction. Raises sqlite3.Error and OSError."""
    rows = [
        (*minutes, link.parent, link.child, sign * link.call_count, sign * link.error_count)
        for minutes, linkers in counts.items()
        for sign, linker in zip((1, -1), linkers, strict=True)
        for link in linker.link()
    ]
    # SQLite would create it with the umask's mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma journal_mode = wal")
        # A power failure may take the last counts with it: they are counted again.
        connection.execute("pragma synchronous = normal")
        connection.execute("begin immediate")
        _create(connection)
        connection.executemany("insert into blocks values (?)", [(block,) for block in blocks])
        names = {row[2:4] for row in rows}
        connection.executemany("insert or ignore into links (parent, child) values (?, ?)", sorted(names))
        connection.executemany(_ADD_MINUTE, rows)
        connection.executemany(_ADD_TOTAL, [row[2:] for row in rows])
        if rows:
            first, last = min(row[0] for row in rows), max(row[1] for row in rows)
            bounds = connection.execute(
                "select min(first, ?), max(last, ?) from bounds", (first, last)
            ).fetchone()
            connection.execute("delete from bounds")
            connection.execute("insert into bounds values (?, ?)", bounds or (first, last))
        connection.execute("commit")


def discard_counts(path: str) -> None:
    """Delete a file that is damaged, or whose partition is gone."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(name)


def _create(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("pragma user_version").fetchone()
    if version == 0:
        for statement in _TABLES:
            connection.execute(statement)


def _blocks(connection: sqlite3.Connection) -> set[int]:
    return {row[0] for row in connection.execute("select id from blocks")}


@contextmanager
def _reading(path: str) -> Iterator[sqlite3.Connection | None]:
    """Give a connection to read with, None if there are no counts."""
    if not os.path.exists(path):
        yield None
        return
    with closing(_connected(path)) as connection:
        (version,) = connection.execute("pragma user_version").fetchone()
        if version not in (0, FORMAT):
            raise sqlite3.DatabaseError(f"it has format {version}")
        yield connection if version else None


def _connected(path: str) -> sqlite3.Connection:
    uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.execute("pragma user_version").fetchone()
    except sqlite3.OperationalError:
        # SQLite may not make its files here to say that somebody reads.
        connection.close()
        return sqlite3.connect(f"{uri}&immutable=1", uri=True, isolation_level=None)
    return connection
