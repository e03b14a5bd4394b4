"""A span store that keeps ids in memory, for tests of what stands before it."""

from __future__ import annotations

import json

from kaspan.store.span_store import SpanStore, StoreFull, StoreSettings, StoreTotals

FULL = StoreFull("/store/1.spans cannot be written: No space left on device")
SETTINGS = StoreSettings("/store", 1 << 30, 60.0)


class FakeStore(SpanStore):
    """Keeps what is committed in a list; commits fail while `full` is set."""

    def __init__(self) -> None:
        self.committed: list[str] = []
        self.full: StoreFull | None = None
        self.commits = 0
        self.totals = StoreTotals(0, 0, 0, 0, 0, 0.0)
        self._ids: list[str] = []
        self.held_spans = 0

    def accept(self, spans: bytes) -> None:
        self._ids += [one["id"] for one in json.loads(b"[" + spans + b"]")]
        self.held_spans = len(self._ids)

    def commit(self) -> None:
        self.commits += 1
        if self.full is not None:
            raise self.full
        self.committed += self._ids
        self._ids, self.held_spans = [], 0
