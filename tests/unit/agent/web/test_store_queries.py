"""kaspan.agent.web.store_queries: what an agent does with its store before anybody asks."""

from __future__ import annotations

import threading
from pathlib import Path

from kaspan.agent.web.store_queries import StoreQueries
from kaspan.config import schema
from kaspan.store.links import GROUP_BLOCKS
from kaspan.store.schema import MAX_BLOCK_SPANS
from kaspan.store.span_store import SpanStore
from support.stored_spans import settings, spans
from support.waiting import wait_until


def test_links_are_counted_while_nobody_asks(tmp_path: Path) -> None:
    """A query finds them counted, beside the partition, and adds only what came since."""
    store = SpanStore(settings(tmp_path))
    for first in range(GROUP_BLOCKS + 1):
        store.accept(spans(first * MAX_BLOCK_SPANS + 1, MAX_BLOCK_SPANS))
    store.commit()
    queries = StoreQueries(settings(tmp_path), schema.Agent())
    counting = threading.Thread(target=queries.run)
    counting.start()
    try:
        wait_until(lambda: list(tmp_path.glob("*.links")), "counted links")
    finally:
        queries.stop()
        counting.join(60)
        queries.close()
        store.close()
    assert not counting.is_alive()
