"""Keeps spans in the span store on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from kaspan.agent.histogram import Histogram
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender
from kaspan.store.span_store import SpanStore, StoreError, StoreSettings

COMMIT_INTERVAL_S = 1.0
"""How long spans are held in memory before they are committed."""
MAX_HELD_SPANS = 8_000
"""With so many, spans are committed earlier."""
MAX_HELD_BYTES = 16 * 1024 * 1024
"""With so much JSON too: a span may be large."""
TIDY_INTERVAL_S = 10.0
"""How often the store deletes what is too old while no spans come."""

_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class StoreSender(Sender):
    """Gives spans to a store, and commits many together: each commit costs a flush of the disk.

    Spans stay in the spool until they are committed. While that fails, those that are held stay held, no
    others are accepted, and `problem` says why; else it is "". `commit_s` has the durations of commits, in
    seconds. `close` commits, and leaves the store open.
    """

    idle_s = 0.25

    def __init__(
        self, settings: StoreSettings, store: SpanStore, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = f"store {settings.path}"
        self.settings = settings
        self.store = store
        self.problem = ""
        self.commit_s = Histogram.of(_SECONDS)
        self._clock_s = clock_s
        self._accepted_id = self._committed_id = 0
        self._held_bytes = 0
        self._commit_at_s = 0.0
        self._tidy_at_s = clock_s() + TIDY_INTERVAL_S

    def adjust(self, max_bytes: int, max_age_s: float) -> None:
        """Use other limits of the store from the next commit on. Any thread may call it."""
        self.settings = replace(self.settings, max_bytes=max_bytes, max_age_s=max_age_s)
        self.store.adjust(max_bytes, max_age_s)

    def send(self, spans: bytes, last_id: int) -> Outcome:
        """Hold spans until the next commit; blocks for the commit of earlier ones if it is due.

        Refuses what is not JSON spans of Zipkin v2.
        """
        if self.problem or self._is_due():
            outcome = self._commit()
            if isinstance(outcome, Failed):
                return outcome
        if not self.store.held_spans:
            self._commit_at_s = self._clock_s() + COMMIT_INTERVAL_S
        try:
            self.store.accept(spans)
        except StoreError as error:
            return Failed(str(error))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (a span that the store fails on must not hold up the others)
            return Refused(f"cannot be stored: {type(error).__name__}: {error}")
        self._accepted_id = last_id
        self._held_bytes += len(spans)
        return Delivered()

    def idle(self) -> Delivered | Failed | None:
        """Commit what is held, if it is due; blocks for that."""
        if not self.store.held_spans:
            self._tidy()
        return self._commit() if self._is_due() else None

    def _is_due(self) -> bool:
        """Whether what is held must be committed now; after a failure that is tried once in an interval."""
        if not self.store.held_spans:
            return False
        is_full = self.store.held_spans >= MAX_HELD_SPANS or self._held_bytes >= MAX_HELD_BYTES
        return (is_full and not self.problem) or self._clock_s() >= self._commit_at_s

    def _tidy(self) -> None:
        """Let the store keep its limits, which a commit does too."""
        if self._clock_s() >= self._tidy_at_s:
            self._tidy_at_s = self._clock_s() + TIDY_INTERVAL_S
            self.store.commit()

    def passed(self, last_id: int) -> int:
        """Give up rows once all of their spans are committed."""
        return self._committed_id if self.store.held_spans else last_id

    def close(self) -> Delivered | Failed | None:
        """Commit what is held."""
        return self._commit() if self.store.held_spans else None

    def _commit(self) -> Delivered | Failed:
        began_s = self._clock_s()
        try:
            self.store.commit()
        except StoreError as error:
            self.problem = str(error)
            self._commit_at_s = self._clock_s() + COMMIT_INTERVAL_S
            return Failed(self.problem)
        self.problem = ""
        self.commit_s.add(self._clock_s() - began_s)
        self._committed_id = self._accepted_id
        self._held_bytes = 0
        return Delivered()
