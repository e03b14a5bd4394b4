"""Spans for a store, and what a store's files have of them, read without the reader."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from kaspan.store.blocks import decompress_spans
from kaspan.store.partitions import Partition, list_partitions
from kaspan.store.schema import MAX_PARTS
from kaspan.store.span_store import StoreSettings

FIRST_US = 1_732_459_200_000_000
"""The full hour at which the time of spans begins."""
HOUR_US = 3_600_000_000


def settings(path: Path, **changes: Any) -> StoreSettings:
    """Return settings of a store that deletes nothing."""
    return StoreSettings(str(path), **{"max_bytes": 1 << 40, "max_age_s": 1e9, **changes})


def span(number: int, trace: int | None = None, **members: Any) -> bytes:
    """Return the JSON of a span; its id is the number, and its trace id too unless another is given."""
    ids = {"traceId": f"{trace or number:032x}", "id": f"{number:016x}"}
    defaults = {"timestamp": FIRST_US + number, "duration": 1000, "localEndpoint": {"serviceName": "orders"}}
    found = {name: value for name, value in (ids | defaults | members).items() if value is not None}
    return json.dumps(found, separators=(",", ":")).encode()


def spans(first: int, count: int, **members: Any) -> bytes:
    """Return spans with numbers from `first` on, joined by commas."""
    return b",".join(span(number, **members) for number in range(first, first + count))


def rows(partition: Partition, select: str, *values: object) -> list[Any]:
    """Return the rows of a query."""
    with closing(sqlite3.connect(f"file:{partition.path}?mode=ro", uri=True)) as connection:
        return connection.execute(select, values).fetchall()


def stored_ids(path: Path) -> list[int]:
    """Return the ids of all spans that another process finds in a store, in their order."""
    return [int(found["id"], 16) for partition in list_partitions(str(path)) for found in spans_of(partition)]


def spans_of(partition: Partition) -> Iterator[Any]:
    """Yield the spans of a partition."""
    for (body,) in rows(partition, "select body from bodies order by id"):
        yield from json.loads(b"[%b]" % decompress_spans(body))


def ids_of_block(partition: Partition, block: int) -> list[int]:
    """Return the ids of the spans of a block."""
    select = "select body from bodies where id / ? = ? order by id"
    bodies = [decompress_spans(body) for (body,) in rows(partition, select, MAX_PARTS, block)]
    return [int(found["id"], 16) for found in json.loads(b"[%b]" % b",".join(bodies))]
