"""What an agent with a span store does for those who ask: answers queries, and counts links for them."""

from __future__ import annotations

import threading

from kaspan.agent.http.server import HttpServer
from kaspan.agent.web.query import query_clock_s
from kaspan.agent.web.query_api import QueryApi
from kaspan.config import schema
from kaspan.store.links import LinkCounter
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import StoreSettings

COUNT_S = 0.1
"""How long links are counted at a time."""
BREAK_S = 0.2
"""How long the processor is left to other threads while there is more to count."""
PAUSE_S = 5.0
"""How long counting waits when everything is counted."""


class StoreQueries:
    """Answers queries over a store; counts its links from `run` until `stop`, a third of the time at most.

    Raises ConfigError if agent.web cannot be used.
    """

    def __init__(self, store: StoreSettings, settings: schema.Agent) -> None:
        self._reader = StoreReader(store, clock_s=query_clock_s)
        self._api = QueryApi(self._reader, settings)
        self._counter = LinkCounter(store)
        self._stopping = threading.Event()

    def add_to(self, server: HttpServer) -> None:
        """Add the routes of queries to a server that does not run yet."""
        self._api.add_to(server)

    def run(self) -> None:
        """Count links until `stop` is called."""
        pause_s = BREAK_S
        while not self._stopping.wait(pause_s):
            pause_s = BREAK_S if self._counter.count(COUNT_S) else PAUSE_S
        self._counter.close()

    def stop(self) -> None:
        """Make `run` return once it has counted what it counts now. Any thread may call it."""
        self._stopping.set()

    def close(self) -> None:
        """Close the files that queries have opened."""
        self._reader.close()
