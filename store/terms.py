"""The index of what a search may ask for beside service and time: which blocks may have a term.

A term is a tag and its value, a tag's key or an annotation's value, a span's name, or the name of a remote
service; the functions below make its bytes. The index keeps the CRC-32 of a term and 8 bits of its
service's id, so it may name a block that has no such span, and never leaves out one that has.

The entries of one block, when it is complete, are a row of `block_terms`. The entries of GROUP_BLOCKS
blocks then become one row of `term_groups` and SHARDS rows of `term_shards`, by the first 8 bits of the
CRC: a search reads one small row for each group.

Formats, little-endian: an entry is the other 24 bits of the CRC, then the service's 8 bits as its low byte.
`block_terms.entries` is how many entries each shard has (32 bits each), then the entries in the order of
shards. A row of `term_shards` is how many entries each block of the group has in this shard, then those in
the order of blocks.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from zlib import crc32

SHARDS = 256
GROUP_BLOCKS = 32

TABLES = (
    "create table block_terms (block integer primary key, entries blob not null)",
    "create table term_groups (id integer primary key, blocks blob not null)",
    "create table term_shards (id integer primary key, entries blob not null)",
)
"""`term_groups.blocks` is block ids, 32 bits each; the ids of a group's shards begin at id * SHARDS."""

_BYTES = 4
"""Of an entry, and of the number of entries."""
_COUNTS_BYTES = SHARDS * _BYTES


def tag_term(key: str, value: str) -> bytes:
    """Return the term of a tag with a value."""
    return f'{key}":"{value}'.encode("utf-8", "surrogatepass")


def word_term(word: str) -> bytes:
    """Return the term of a tag's key, which is also that of an annotation's value."""
    return b'"k' + word.encode("utf-8", "surrogatepass")


def name_term(name: str) -> bytes:
    """Return the term of a span's name, in lower case."""
    return b'"n' + name.encode("utf-8", "surrogatepass")


def remote_term(service: str) -> bytes:
    """Return the term of the name of a remote service, in lower case."""
    return b'"r' + service.encode("utf-8", "surrogatepass")


def block_entries(terms: Mapping[int, Collection[bytes]]) -> bytes:
    """Return the entries of a block, given its terms by the id of their service, 0 for none."""
    shards: list[list[int]] = [[] for _ in range(SHARDS)]
    put = [shard.append for shard in shards]
    for service, service_terms in terms.items():
        byte = service & 0xFF
        for found in map(crc32, service_terms):
            put[found >> 24]((found & 0xFFFFFF) << 8 | byte)
    counts = array("I", map(len, shards))
    return counts.tobytes() + array("I", chain.from_iterable(shards)).tobytes()


def _merge(blocks: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the shards of a group, given the entries of its blocks."""
    counts = [array("I", entries[:_COUNTS_BYTES]).tolist() for entries in blocks]
    ends = [[_COUNTS_BYTES + end * _BYTES for end in accumulate(block)] for block in counts]
    for shard in range(SHARDS):
        lengths = array("I", [block[shard] for block in counts])
        parts = [
            entries[end[shard] - length * _BYTES : end[shard]]
            for entries, end, length in zip(blocks, ends, lengths, strict=True)
        ]
        yield lengths.tobytes() + b"".join(parts)


def store_group(connection: sqlite3.Connection, blocks: Sequence[int]) -> None:
    """Make one group of blocks that have rows in `block_terms`, in the current transaction."""
    select = "select entries from block_terms where block = ?"
    entries = [connection.execute(select, (block,)).fetchone()[0] for block in blocks]
    group = 1 + connection.execute("select coalesce(max(id), 0) from term_groups").fetchone()[0]
    ids = array("I", blocks).tobytes()
    connection.execute("insert into term_groups (id, blocks) values (?, ?)", (group, ids))
    rows = enumerate(_merge(entries), group * SHARDS)
    connection.executemany("insert into term_shards (id, entries) values (?, ?)", rows)
    connection.executemany("delete from block_terms where block = ?", [(block,) for block in blocks])


def find_blocks(connection: sqlite3.Connection, term: bytes, service: str | None = None) -> set[int]:
    """Return the blocks of a partition that may have a span with a term, of a service if one is given.

    `service` is in lower case, "" for spans without one. Open blocks are not in the index, so not in the
    result either.
    """
    service_id = 0
    if service:
        row = connection.execute("select id from service_names where name = ?", (service,)).fetchone()
        if row is None:
            return set()
        (service_id,) = row
    crc = crc32(term)
    shard = crc >> 24
    needle = ((crc & 0xFFFFFF) << 8 | service_id & 0xFF).to_bytes(_BYTES, "little")
    if service is None:
        needle = needle[1:]
    return _in_blocks(connection, shard, needle) | _in_groups(connection, shard, needle)


def _in_blocks(connection: sqlite3.Connection, shard: int, needle: bytes) -> set[int]:
    found = set()
    for block, entries in connection.execute("select block, entries from block_terms"):
        counts = array("I", entries[: (shard + 1) * _BYTES])
        end = _COUNTS_BYTES + sum(counts) * _BYTES
        if next(_offsets(entries, needle, end - counts[-1] * _BYTES, end), None) is not None:
            found.add(block)
    return found


def _in_groups(connection: sqlite3.Connection, shard: int, needle: bytes) -> set[int]:
    found = set()
    select = "select g.blocks, s.entries from term_groups g join term_shards s on s.id = g.id * ? + ?"
    for blocks, entries in connection.execute(select, (SHARDS, shard)):
        # There are as many bytes of counts as of block ids.
        offsets = list(_offsets(entries, needle, len(blocks), len(entries)))
        if offsets:
            ids, ends = array("I", blocks), list(accumulate(array("I", entries[: len(blocks)])))
            found.update([ids[bisect_right(ends, (offset - len(blocks)) // _BYTES)] for offset in offsets])
    return found


def _offsets(entries: bytes, needle: bytes, first: int, end: int) -> Iterator[int]:
    """Yield where entries end with these bytes, between two offsets; a yielded offset lies in the entry."""
    at = entries.find(needle, first, end)
    while at >= 0:
        if (at + len(needle)) % _BYTES == 0:
            yield at
        at = entries.find(needle, at + 1, end)
