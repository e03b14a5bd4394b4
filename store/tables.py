"""Writes blocks and names into the tables of a partition, in the caller's transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from kaspan.store import terms
from kaspan.store.blocks import compress_spans
from kaspan.store.digest import Digest
from kaspan.store.open_block import OpenBlock
from kaspan.store.schema import MAX_PARTS

MAX_KNOWN_NAMES = 50_000
"""How many names are kept in memory to save a look into the file."""

_UPSERT_BLOCK = """insert into blocks values (?, ?, ?, ?, ?, ?, ?) on conflict (id) do update set
    is_open = excluded.is_open, spans = excluded.spans, bytes = excluded.bytes, min_us = excluded.min_us,
    max_us = excluded.max_us, durations = excluded.durations"""
_UPSERT_SERVICE = "insert or replace into services values (?, ?, ?, ?, ?, ?)"
_INSERT_TRACE = "insert or ignore into traces values (?, ?)"
_INSERT_SPAN_NAME = "insert or ignore into span_names values (?, ?)"
_INSERT_REMOTE_NAME = "insert or ignore into remote_service_names values (?, ?)"
_INSERT_TAG_VALUE = "insert or ignore into tag_values values (?, ?)"


class Tables:
    """The tables of one partition.

    What it keeps in memory is that of the file: after a transaction that was rolled back, make a new one.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._service_ids: dict[str, int] = {}
        self._known_names: dict[tuple[str, int | str], set[str]] = {}
        self._names = 0
        self._traces: list[tuple[int, int]] = []
        self._ungrouped = [
            row[0] for row in connection.execute("select block from block_terms order by block")
        ]

    def bodies(self, block_id: int) -> list[bytes]:
        """Return the bodies of a block."""
        first = block_id * MAX_PARTS
        select = "select body from bodies where id >= ? and id < ? order by id"
        return [row[0] for row in self._connection.execute(select, (first, first + MAX_PARTS))]

    def store(self, block: OpenBlock, ends: bool, autocomplete_keys: Collection[str]) -> None:
        """Store what is new in a block; `ends` says that it gets no more spans."""
        execute, first = self._connection.execute, block.id * MAX_PARTS
        if block.new_traces or ends:
            spans, replaces = block.next_body(ends)
            if replaces:
                execute("delete from bodies where id >= ? and id < ?", (first, first + MAX_PARTS))
            part = first if replaces else first + block.parts
            execute("insert into bodies values (?, ?)", (part, compress_spans(spans)))
            self._traces += [(trace, block.id) for trace in block.new_traces]
            changed = block.digest()
            self._store_summaries(block, changed, ends)
            for service in changed:
                self._store_names(service, block.services[service], autocomplete_keys)
            if not ends:
                block.stored(replaces)
        if ends:
            found = {self._service_id(name): listed for name, listed in block.terms().items()}
            execute("insert into block_terms values (?, ?)", (block.id, terms.block_entries(found)))
            self._ungrouped.append(block.id)
            if len(self._ungrouped) >= terms.GROUP_BLOCKS:
                self.group()

    def _store_summaries(self, block: OpenBlock, changed: set[str], ends: bool) -> None:
        digests = block.services.values()
        bounds = [
            bound for digest in digests for bound in (digest.min_us, digest.max_us) if bound is not None
        ]
        durations = 0
        for digest in digests:
            durations |= digest.durations
        times = (min(bounds), max(bounds)) if bounds else (None, None)
        row = (block.id, not ends, block.spans, block.bytes, *times, durations)
        self._connection.execute(_UPSERT_BLOCK, row)
        rows = []
        for service in changed - {""}:
            digest = block.services[service]
            summary = (digest.spans, digest.min_us, digest.max_us, digest.durations)
            rows.append((self._service_id(service), block.id, *summary))
        self._connection.executemany(_UPSERT_SERVICE, sorted(rows))

    def _service_id(self, service: str) -> int:
        """Return the id of a service, which is made for a new one; 0 for none."""
        if not service:
            return 0
        found = self._service_ids.get(service)
        if found is None:
            if len(self._service_ids) >= MAX_KNOWN_NAMES:
                self._service_ids.clear()
            self._connection.execute("insert or ignore into service_names (name) values (?)", (service,))
            select = "select id from service_names where name = ?"
            found = self._service_ids[service] = self._connection.execute(select, (service,)).fetchone()[0]
        return found

    def _store_names(self, service: str, digest: Digest, autocomplete_keys: Collection[str]) -> None:
        if service:
            service_id = self._service_id(service)
            self._insert_new(_INSERT_SPAN_NAME, service_id, digest.names)
            self._insert_new(_INSERT_REMOTE_NAME, service_id, digest.remote_names)
        for key in autocomplete_keys:
            values = {value for name, value in digest.tags if name == key}
            self._insert_new(_INSERT_TAG_VALUE, key, values)

    def _insert_new(self, statement: str, key: int | str, names: set[str]) -> None:
        """Insert names that are not known to be in the file."""
        known = self._known_names.get((statement, key), set())
        if names <= known:
            return
        new = names - known
        self._connection.executemany(statement, [(key, name) for name in new])
        self._names += len(new)
        if self._names > MAX_KNOWN_NAMES:
            self._known_names.clear()
            self._names = 0
        else:
            self._known_names[statement, key] = known | new

    def store_traces(self) -> None:
        """Store which traces are in the blocks that were stored since the last call."""
        # In order, since neighbours in the index share a page.
        self._connection.executemany(_INSERT_TRACE, sorted(self._traces))
        self._traces = []

    def group(self) -> None:
        """Make one group of all blocks that are in none, for the index of terms."""
        if self._ungrouped:
            terms.store_group(self._connection, self._ungrouped)
            self._ungrouped = []
