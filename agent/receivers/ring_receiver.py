"""The ring receiver: moves spans from the applications' rings into the spool.

The rings are the buffer; the receiver holds no spans itself. It leaves a ring alone until its spans have
waited for `batch.flush_interval_s` or it is a quarter full, then stores its frames, joined and not decoded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import NamedTuple

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.processors.chain import Chain, Tally
from kaspan.agent.receivers.ring_directory import RingDirectory
from kaspan.agent.receivers.ring_file import spool_key
from kaspan.agent.receivers.rings import Rings, WatchedRing
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.spool import Spool
from kaspan.agent.status import ServiceStatus
from kaspan.wire.ring import RingError

TICK_S = 0.05
"""How often ring headers are read: twenty reads a second have no measurable cost."""
SCAN_S = 1.0
"""How often a directory is listed even if its modification time has not changed."""
_COMMIT_BYTES = 4 * 1024 * 1024  # a transaction holds at most this, plus one piece of a ring
_OPENING, _CLOSING = frozenset(b"{"), frozenset(b"}")
_first, _last = itemgetter(0), itemgetter(-1)

_log = logging.getLogger("kaspan.agent")


class Adjustment(NamedTuple):
    """Settings of a receiver that may change while it works; the directories are open already."""

    directories: Sequence[RingDirectory]
    batch_bytes: int
    flush_interval_s: float
    chain: Chain | None


class RingReceiver:
    """Reads the rings in `directories` into `spool`, in batches of at most `batch_bytes`.

    `tick` does one round. It blocks for the disk only: for one transaction, and for a second one when rings
    are removed. `run` calls it until `stop`, then drains all rings once more. While the spool is full, rings
    stay unread and their writers count what they drop; the receiver retries with smaller and smaller
    transactions, since there may be space for a part. Without a `chain` spans are not decoded. `ticked_s` is
    when the last round began.
    """

    def __init__(
        self,
        directories: Sequence[RingDirectory],
        spool: Spool,
        batch_bytes: int,
        flush_interval_s: float,
        clock_s: Callable[[], float] = time.monotonic,
        chain: Chain | None = None,
    ) -> None:
        self.ticked_s = clock_s()
        self._rings = Rings(directories, spool)
        self._spool = spool
        self._batch_bytes = batch_bytes
        self._flush_interval_s = flush_interval_s
        self._clock_s = clock_s
        self._chain = chain
        self._tally = Tally()
        self._adjustments: deque[Adjustment] = deque()
        self._stopping = threading.Event()
        self._is_full = False
        self._commit_bytes = _COMMIT_BYTES
        self._next_scan_s = self._next_flush_s = self._retry_s = clock_s()

    def run(self) -> None:
        """Read rings until `stop` is called, then drain them once more."""
        has_more = False
        while not self._stopping.wait(0 if has_more else min(TICK_S, self._flush_interval_s)):
            has_more = self.tick()
        self.tick(last=True)
        self._rings.close()

    def stop(self) -> None:
        """Make `run` store what the rings hold now, and return."""
        self._stopping.set()

    @property
    def accepted_spans(self) -> int:
        """How many spans were stored in the spool, or dropped by a processor."""
        return self._rings.services.accepted_spans

    @property
    def lost_bytes(self) -> int:
        """How many bytes of spans were lost in damaged rings."""
        return self._rings.lost_bytes

    @property
    def rejected_rings(self) -> int:
        """How many files in ring directories are not valid rings."""
        return self._rings.rejected_rings

    def services(self) -> list[ServiceStatus]:
        """Return what came from each service, and how full its rings are. Any thread may call it."""
        return self._rings.services.observe([watched.ring for watched in list(self._rings.watched.values())])

    def problems(self) -> list[str]:
        """Return a message for each directory that is not read, with the reason. Any thread may call it."""
        return self._rings.problems()

    def tick(self, last: bool = False) -> bool:
        """Look at every ring once, and store the spans of those that are due; in the `last` round, of all.

        Returns whether more spans can be stored at once.
        """
        now_s = self.ticked_s = self._clock_s()
        while self._adjustments:
            self._adjust(self._adjustments.popleft(), now_s)
        complete = last or now_s >= self._next_scan_s
        self._rings.find_new(complete)
        if complete:
            self._next_scan_s = now_s + SCAN_S
        # While others wait for a descriptor, every ring is read at once, so that it can be closed.
        flush = last or now_s >= self._next_flush_s or self._rings.is_short
        due = [
            watched
            for watched in list(self._rings.open.values())
            if self._is_due(watched, flush or watched.is_gone, now_s)
        ]
        has_more = bool(due) and (last or now_s >= self._retry_s) and self._store(due, now_s)
        while last and has_more:
            has_more = self._store(due, now_s)  # only what the rings held when they were looked at
        if flush and not has_more:
            self._next_flush_s = now_s + self._flush_interval_s
        self._rings.remove_finished()
        return has_more

    def adjust(self, adjustment: Adjustment) -> None:
        """Use other settings from the next round on. Any thread may call it."""
        self._adjustments.append(adjustment)

    def _adjust(self, new: Adjustment, now_s: float) -> None:
        """Use new settings. Before that, store what the rings in directories that are left out hold."""
        leaving = self._rings.outside(new.directories)
        due = [watched for watched in leaving if self._is_due(watched, True, now_s)]
        while due and self._store(due, now_s):
            pass
        self._rings.use_directories(new.directories)
        self._chain = new.chain
        self._batch_bytes, self._flush_interval_s = new.batch_bytes, new.flush_interval_s
        self._next_flush_s = self._next_scan_s = now_s

    def _is_due(self, watched: WatchedRing, flush: bool, now_s: float) -> bool:
        if not self._rings.poll(watched, now_s):
            return False
        ring = watched.ring
        unread = ring.unread_bytes
        return unread > 0 and (flush or unread * 4 >= ring.data_bytes or ring.is_suspect)

    def _store(self, due: Sequence[WatchedRing], now_s: float) -> bool:
        """Move spans from rings into the spool in one bounded transaction; return whether more is left.

        A full ring drops spans, so rings of living processes come first, the fullest before the others. A
        quarter of the transaction is for rings of processes that are gone, which would never be emptied
        otherwise.
        """
        living = sorted((ring for ring in due if not ring.is_gone), key=lambda watched: -watched.ring.fill)
        gone = [watched for watched in due if watched.is_gone]
        pending = _PendingRows(self._batch_bytes)
        limit = self._commit_bytes
        try:
            is_all = self._fill(pending, living, limit - limit // 4 if gone else limit, now_s)
            # If the rings of processes that are gone are empty, the rest of their quarter is for the others.
            is_all = self._fill(pending, gone, limit, now_s) and (
                is_all or self._fill(pending, living, limit, now_s)
            )
            if pending.moved:
                self._commit(pending, now_s)
        except (SpoolFull, MemoryError) as error:
            self._roll_back(due, pending, error, now_s)
            return False
        if self._is_full and is_all:
            self._is_full = False
            _log.info("the spool accepts spans again")
        return not is_all

    def _fill(self, pending: _PendingRows, rings: Sequence[WatchedRing], limit: int, now_s: float) -> bool:
        """Read rings up to `limit` bytes in all; return whether the rings are empty now."""
        for watched in rings:
            while pending.bytes < limit:
                payloads = self._read(watched, now_s)
                if payloads is None:
                    break
                pending.add(watched, payloads)
            else:
                return False
        return True

    def _read(self, watched: WatchedRing, now_s: float) -> list[bytes] | None:
        """Read the next piece of a ring. None: nothing is left. Empty list: a damaged stretch was skipped."""
        if not watched.ring.unread_bytes or watched.path not in self._rings.open:
            return None
        before = watched.ring.position
        try:
            # Pieces of equal size: a small rest would become a message of its own.
            unread, limit = watched.ring.unread_bytes, min(self._batch_bytes, self._commit_bytes)
            payloads, lost = watched.ring.read(-(-unread // -(-unread // limit)), now_s)
        except (RingError, OSError) as error:
            self._rings.reject(watched, error)
            return None
        if lost is not None:
            self._rings.lost_bytes += watched.ring.position - before
            fields = {"ring": watched.path, "service": watched.ring.service, "problem": lost}
            _log.warning("ring %(ring)s of %(service)s is damaged: %(problem)s", fields, extra=fields)
        if watched.ring.position == before:
            return None
        # A payload such as `{...}]` would end the JSON list; Zipkin ignores what follows that.
        if not (_OPENING.issuperset(map(_first, payloads)) and _CLOSING.issuperset(map(_last, payloads))):
            payloads = self._only_objects(watched, payloads)
        watched.counters.read(len(payloads))
        return payloads if self._chain is None else self._chain.process(payloads, self._tally)

    def _only_objects(self, watched: WatchedRing, payloads: list[bytes]) -> list[bytes]:
        """Return the payloads that look like JSON objects, and count the others as lost."""
        objects = [payload for payload in payloads if payload[:1] == b"{" and payload[-1:] == b"}"]
        self._rings.lost_bytes += sum(map(len, payloads)) - sum(map(len, objects))
        fields = {
            "ring": watched.path,
            "service": watched.ring.service,
            "dropped_spans": len(payloads) - len(objects),
        }
        _log.warning(
            "ring %(ring)s of %(service)s: %(dropped_spans)d spans are not JSON objects and are dropped",
            fields,
            extra=fields,
        )
        return objects

    def _commit(self, pending: _PendingRows, now_s: float) -> None:
        """Store spans and positions in one transaction, then tell the writers: a kill repeats nothing."""
        positions = {path: watched.ring.position for path, watched in pending.moved.items()}
        self._spool.put(pending.rows(), {spool_key(path): position for path, position in positions.items()})
        self._commit_bytes = min(_COMMIT_BYTES, self._commit_bytes * 2)
        if self._chain is not None:
            self._chain.count(self._tally)
            self._tally = Tally()
        for watched in pending.moved.values():
            watched.counters.stored()
            watched.stored_s = now_s
        self._rings.stored(positions)

    def _roll_back(
        self, due: Sequence[WatchedRing], rows: _PendingRows, error: Exception, now_s: float
    ) -> None:
        """Reset rings to their stored positions, since what was read could not be stored."""
        if not self._is_full:
            self._is_full = True
            _log.warning("rings are left unread: %s", str(error) or "there is too little memory")
        for watched in due:
            watched.ring.position = self._rings.positions.get(watched.path, watched.ring.position)
            watched.counters.rolled_back()
        self._tally = Tally()
        self._commit_bytes = max(1, min(rows.bytes, self._commit_bytes) // 2)
        self._retry_s = now_s + SCAN_S


class _PendingRows:
    """What one transaction will store: rows of at most `row_bytes`, and the rings that they came from."""

    def __init__(self, row_bytes: int) -> None:
        self.bytes = 0
        self.moved: dict[str, WatchedRing] = {}
        self._row_bytes = row_bytes
        self._rows: list[Batch] = []
        self._spans: list[bytes] = []
        self._spans_bytes = 0

    def add(self, watched: WatchedRing, payloads: list[bytes]) -> None:
        """Add the spans of a ring; none if a damaged stretch was skipped."""
        self.moved[watched.path] = watched
        size = sum(map(len, payloads)) + len(SEPARATOR) * len(payloads)
        if self._spans_bytes + size > self._row_bytes:
            self._end_row()
        self._spans += payloads
        self._spans_bytes += size
        self.bytes += size

    def _end_row(self) -> None:
        if self._spans:
            self._rows.append(Batch(len(self._spans), SEPARATOR.join(self._spans)))
        self._spans, self._spans_bytes = [], 0

    def rows(self) -> list[Batch]:
        """Return all rows, the unfinished one included."""
        self._end_row()
        return self._rows
