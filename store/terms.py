"""The index of what a search may ask for beside service and time: which blocks may have a term.

A term is a tag and its value, a tag's key or an annotation's value, a span's name, or the name of a remote
service; the functions below make its bytes. The index keeps 24 bits of a term's hash and 8 of its
service's, so it may name a block that has no such span, and never leaves out one that has.

The entries of one block, when it is complete, are a row of `block_terms`. The entries of GROUP_BLOCKS
blocks then become one row of `term_groups` and SHARDS rows of `term_shards`, by the first 8 bits of the
hash: a search reads one small row for each group.

Formats, little-endian: `block_terms.entries` is the number of entries in each shard (32 bits each), the
other 16 bits of the hash of each entry, and 8 bits for the service of each, both in the order of shards. A
row of `term_shards` is the number of entries of each block of the group, then the same two lists in the
order of blocks.
"""

from __future__ import annotations

import sqlite3
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from zlib import crc32

SHARDS = 256
GROUP_BLOCKS = 32

TABLES = (
    "create table block_terms (block integer primary key, entries blob not null)",
    "create table term_groups (id integer primary key, blocks blob not null)",
    "create table term_shards (id integer primary key, entries blob not null)",
)
"""`term_groups.blocks` is block ids, 32 bits each; the ids of a group's shards begin at id * SHARDS."""

_COUNT_BYTES = 4
_HASH_BYTES = 2


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


def _service_byte(service: str) -> int:
    return crc32(service.encode("utf-8", "surrogatepass")) & 0xFF


def block_entries(terms: Mapping[str, Iterable[bytes]]) -> bytes:
    """Return the entries of a block, given its terms by service, "" for spans without a service."""
    found: set[int] = set()
    for service, service_terms in terms.items():
        byte = _service_byte(service)
        found.update([crc32(term) & 0xFFFFFF00 | byte for term in service_terms])
    # Of the four bytes of an entry, the first is the service, the last is the shard.
    entries = array("I", sorted(found)).tobytes()
    services, shards = entries[::4], entries[3::4]
    ends = [bisect_right(shards, shard) for shard in range(SHARDS)]
    counts = array("I", map(int.__sub__, ends, [0, *ends]))
    hashes = bytearray(len(services) * _HASH_BYTES)
    hashes[::2], hashes[1::2] = entries[1::4], entries[2::4]
    return counts.tobytes() + hashes + services


def merge(blocks: Sequence[bytes]) -> list[bytes]:
    """Return the shards of a group, given the entries of its blocks."""
    parts: list[tuple[list[int], list[int], bytes, bytes]] = []
    for entries in blocks:
        counts = array("I", entries[: SHARDS * _COUNT_BYTES]).tolist()
        ends = list(accumulate(counts))
        first_service = SHARDS * _COUNT_BYTES + ends[-1] * _HASH_BYTES
        hashes, services = entries[SHARDS * _COUNT_BYTES : first_service], entries[first_service:]
        parts.append((counts, ends, hashes, services))
    return [_shard(parts, shard) for shard in range(SHARDS)]


def _shard(parts: list[tuple[list[int], list[int], bytes, bytes]], shard: int) -> bytes:
    counts = array("I", [part[0][shard] for part in parts])
    ranges = [(ends[shard] - count[shard], ends[shard]) for count, ends, _, _ in parts]
    hashes = [
        part[2][first * _HASH_BYTES : end * _HASH_BYTES]
        for part, (first, end) in zip(parts, ranges, strict=True)
    ]
    services = [part[3][first:end] for part, (first, end) in zip(parts, ranges, strict=True)]
    return counts.tobytes() + b"".join(hashes) + b"".join(services)


def store_group(connection: sqlite3.Connection, blocks: Sequence[int]) -> None:
    """Make one group of blocks that have rows in `block_terms`, in the current transaction."""
    select = "select entries from block_terms where block = ?"
    entries = [connection.execute(select, (block,)).fetchone()[0] for block in blocks]
    group = 1 + connection.execute("select coalesce(max(id), 0) from term_groups").fetchone()[0]
    ids = array("I", blocks).tobytes()
    connection.execute("insert into term_groups (id, blocks) values (?, ?)", (group, ids))
    rows = enumerate(merge(entries), group * SHARDS)
    connection.executemany("insert into term_shards (id, entries) values (?, ?)", rows)
    connection.executemany("delete from block_terms where block = ?", [(block,) for block in blocks])


def find_blocks(connection: sqlite3.Connection, term: bytes, service: str | None = None) -> set[int]:
    """Return the blocks of a partition that may have a span with a term, of a service if one is given.

    `service` is in lower case. Open blocks are not in the index, so not in the result either.
    """
    hashed = crc32(term)
    shard, needle = hashed >> 24, (hashed >> 8 & 0xFFFF).to_bytes(_HASH_BYTES, "little")
    service_byte = None if service is None else _service_byte(service)
    found: set[int] = set()
    for block, entries in connection.execute("select block, entries from block_terms"):
        counts = array("I", entries[: SHARDS * _COUNT_BYTES]).tolist()
        if counts[shard] and _is_in(entries, counts, shard, needle, service_byte):
            found.add(block)
    groups = "select g.blocks, s.entries from term_groups g join term_shards s on s.id = g.id * ? + ?"
    for blocks, entries in connection.execute(groups, (SHARDS, shard)):
        ids = array("I", blocks)
        ends = list(accumulate(array("I", entries[: len(blocks)])))
        for place in _places(entries, len(blocks), 0, ends[-1], ends[-1], needle, service_byte):
            found.add(ids[bisect_right(ends, place)])
    return found


def _is_in(entries: bytes, counts: list[int], shard: int, needle: bytes, service: int | None) -> bool:
    first = sum(counts[:shard])
    places = _places(
        entries, SHARDS * _COUNT_BYTES, first, first + counts[shard], sum(counts), needle, service
    )
    return next(places, None) is not None


def _places(
    entries: bytes, base: int, first: int, end: int, total: int, needle: bytes, service: int | None
) -> Iterator[int]:
    """Yield which entries from `first` to `end` have the hash, and the service if there is one.

    `base` is where the hashes begin, and `total` is how many entries there are.
    """
    at = entries.find(needle, base + first * _HASH_BYTES, base + end * _HASH_BYTES)
    while at >= 0:
        place, half = divmod(at - base, _HASH_BYTES)
        if not half and (service is None or entries[base + total * _HASH_BYTES + place] == service):
            yield place
        at = entries.find(needle, at + 1, base + end * _HASH_BYTES)
