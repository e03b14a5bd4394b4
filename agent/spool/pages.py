"""Reads the rows of a damaged spool from its pages, without SQLite, which fails at the first bad page.

Every page that looks like a leaf is read, whether or not other pages lead to it. What cannot be read is
skipped. Source: "Database File Format" of sqlite.org.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

from kaspan.agent.spool.damage import MAX_INTEGER
from kaspan.agent.spool.database import PAGE_BYTES

Value = int | str | bytes | None

_LEAF_OF_ROWS, _LEAF_OF_KEYS = 13, 10
_HEADER_BYTES = 8  # of a leaf; the numbers of its cells follow
_LINK_BYTES = 4  # the number of the next overflow page
_SENDERS_PAGE = 4  # tables are created in a fixed order, and the few senders fit one page
_MAX_COLUMNS = 6  # of a table of the spool: a damaged page can claim thousands, which take seconds to read
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_UNREADABLE = (ValueError, IndexError)


class Row(NamedTuple):
    """A batch as it is in the file: `body` may be truncated or damaged."""

    id: int
    spans: int
    body: bytes
    sender: str | None


class DeadRow(NamedTuple):
    """A dead letter as it is in the file."""

    sender: str
    reason: str
    span: bytes


class Pages:
    """The pages of the file `path`. Raises OSError if it cannot be read."""

    def __init__(self, path: str) -> None:
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(errno.EINVAL, "Not a regular file", path)
        self._pages = status.st_size // PAGE_BYTES

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def rows(self) -> Iterator[Row | DeadRow]:
        """Yield all rows that can be found. A row may come twice, and a deleted row may come too."""
        for number in range(1, self._pages + 1):
            page = self._page(number)
            if page and page[0] == _LEAF_OF_ROWS:
                for values, row_id in self._cells(page):
                    row = _row(row_id, values)
                    if row is not None:
                        yield row

    def waiting(self, cursors: Mapping[str, int]) -> Iterator[Row]:
        """Yield once each batch that at least one of the senders with these cursors had not passed."""
        passed_id = min(cursors.values(), default=0)
        seen = set()
        for row in self.rows():
            if isinstance(row, Row) and row.id > passed_id and row.id not in seen:
                seen.add(row.id)
                yield row

    def cursors(self) -> dict[str, int]:
        """Return the senders' cursors that can be read."""
        found: dict[str, int] = {}
        page = self._page(_SENDERS_PAGE)
        if page and page[0] == _LEAF_OF_KEYS:
            for values, _ in self._cells(page):
                if len(values) == 2:
                    name, cursor = values
                    if isinstance(name, str) and isinstance(cursor, int) and 0 <= cursor <= MAX_INTEGER:
                        found[name] = cursor
        return found

    def _page(self, number: int) -> bytes:
        return os.pread(self._descriptor, PAGE_BYTES, (number - 1) * PAGE_BYTES)

    def _cells(self, page: bytes) -> Iterator[tuple[list[Value], int]]:
        """Yield the values and the row id of each cell that can be read."""
        cells = int.from_bytes(page[3:5], "big")
        for index in range(min(cells, (PAGE_BYTES - _HEADER_BYTES) // 2)):
            at = _HEADER_BYTES + 2 * index
            try:
                yield self._cell(page, int.from_bytes(page[at : at + 2], "big"))
            except _UNREADABLE:
                continue

    def _cell(self, page: bytes, at: int) -> tuple[list[Value], int]:
        size, at = _varint(page, at)
        row_id = 0
        if page[0] == _LEAF_OF_ROWS:
            row_id, at = _varint(page, at)
        local = _local_bytes(size, page[0] == _LEAF_OF_ROWS)
        payload = page[at : at + local]
        if len(payload) < min(local, size) or size > self._pages * PAGE_BYTES:
            raise ValueError("the cell ends behind its page")
        if local < size:
            link = int.from_bytes(page[at + local : at + local + _LINK_BYTES], "big")
            payload += self._overflow(link, size - local)
        return _values(payload), row_id

    def _overflow(self, number: int, size: int) -> bytes:
        """Return the content of a chain of overflow pages, less if the chain breaks."""
        pieces = []
        while size > 0 and 0 < number <= self._pages:
            page = self._page(number)
            number = int.from_bytes(page[:_LINK_BYTES], "big")
            pieces.append(page[_LINK_BYTES : _LINK_BYTES + size])
            size -= PAGE_BYTES - _LINK_BYTES
        return b"".join(pieces)


def count_waiting_spans(path: str) -> int:
    """Count the spans in a damaged file that some sender had not passed, as far as they can be found."""
    try:
        with closing(Pages(path)) as pages:
            return sum(row.spans for row in pages.waiting(pages.cursors()))
    except OSError:
        return 0


def _local_bytes(size: int, is_row: bool) -> int:
    """Return how many bytes of a payload are in its leaf; the rest is in overflow pages."""
    most = PAGE_BYTES - 35 if is_row else (PAGE_BYTES - 12) * 64 // 255 - 23
    if size <= most:
        return size
    least = (PAGE_BYTES - 12) * 32 // 255 - 23
    fitting = least + (size - least) % (PAGE_BYTES - _LINK_BYTES)
    return fitting if fitting <= most else least


def _values(payload: bytes) -> list[Value]:
    """Read the values of a record; the last one may be truncated."""
    header_bytes, at = _varint(payload, 0)
    kinds: list[int] = []
    while at < header_bytes:
        if len(kinds) == _MAX_COLUMNS:
            raise ValueError("no table of a spool has so many columns")
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    return values


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in _INTEGER_BYTES:
        size = _INTEGER_BYTES[kind]
        return int.from_bytes(payload[at : at + size], "big", signed=True), at + size
    if kind < 12:
        raise ValueError("no agent writes a value of this type")
    size = (kind - 12) // 2
    raw = payload[at : at + size]
    return raw.decode() if kind % 2 else raw, at + size


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index in range(8):
        octet = raw[at + index]
        number = number << 7 | octet & 0x7F
        if octet < 0x80:
            return number, at + index + 1
    return number << 8 | raw[at + 8], at + 9


def _row(row_id: int, values: Sequence[Value]) -> Row | DeadRow | None:
    """Tell by its values whether a row is a batch or a dead letter, None if neither. `id` has no value."""
    if len(values) not in (5, 6) or values[0] is not None or not 0 < row_id <= MAX_INTEGER:
        return None
    _, first, second, third, body = values[:5]
    sender = values[5] if len(values) == 6 else None
    if not isinstance(body, bytes) or not isinstance(second, int):
        return None
    if isinstance(first, str) and isinstance(third, str):
        return DeadRow(first, third, body)
    if isinstance(first, int) and isinstance(third, int) and 0 <= first <= second <= MAX_INTEGER:
        return Row(row_id, first, body, sender if isinstance(sender, str) else None)
    return None
