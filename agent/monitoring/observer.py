"""Collects the status of all parts of an agent."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from glob import escape, glob
from typing import TYPE_CHECKING, Protocol

from kaspan.agent import status as reasons
from kaspan.agent.processors.chain import UNREADABLE, Tally
from kaspan.agent.receivers.ring_receiver import RingReceiver
from kaspan.agent.senders.delivery import Delivery
from kaspan.agent.spool.database import DAMAGED_INFIX
from kaspan.agent.spool.spool import DAMAGED, EXPIRED, SENDER_REMOVED, Spool
from kaspan.agent.status import Problem, ReceiverStatus, SenderStatus, SpoolStatus, Status, StoreStatus
from kaspan.wire import VERSION

if TYPE_CHECKING:
    from kaspan.agent.receivers.collector import Collector
    from kaspan.agent.senders.store import StoreSender

DEAD_LETTERS_FULL = "dead_letters_full"
"""The reason for dropping a refused span for which the dead letters have no space."""
_ALWAYS_SHOWN = (DEAD_LETTERS_FULL, DAMAGED, EXPIRED, SENDER_REMOVED, UNREADABLE)
_EXPECTED_REFUSALS = ("invalid", "too large", "spool full", "busy", "unauthorized")


class Part(Protocol):
    """A thread of the agent."""

    name: str
    has_failed: bool


class Observer:
    """Observes the parts of one agent; `tally` returns what its processors have done so far.

    The agent sets `is_stopping`. Any thread may call `observe`; it waits for the spool's lock, and so for a
    slow disk.
    """

    def __init__(
        self,
        spool: Spool,
        receiver: RingReceiver,
        collector: Collector | None,
        deliveries: Sequence[Delivery],
        parts: Sequence[Part],
        tally: Callable[[], Tally],
        store_sender: StoreSender | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        wall_clock_s: Callable[[], float] = time.time,
    ) -> None:
        self.is_stopping = False
        self._spool = spool
        self._receiver = receiver
        self._collector = collector
        self._deliveries = deliveries
        self._parts = parts
        self._tally = tally
        self._store_sender = store_sender
        self._clock_s = clock_s
        self._wall_clock_s = wall_clock_s
        self._started_at_s = wall_clock_s()

    def observe(self) -> Status:
        """Return the agent's status."""
        senders = [self._sender(delivery) for delivery in self._deliveries]
        tally = self._tally()
        return Status(
            version=VERSION,
            pid=os.getpid(),
            started_at_s=self._started_at_s,
            problems=list(self.problems()),
            receivers=self._receivers(),
            spool=self._spool_status(senders),
            senders=senders,
            dropped_spans=self._dropped_spans(tally),
            failed_spans=dict(tally.failed),
            store=None if self._store_sender is None else self._store_status(self._store_sender),
        )

    def problems(self) -> Iterator[Problem]:
        """Yield all problems that the agent has now; never waits for the spool."""
        if self.is_stopping:
            yield Problem(reasons.STOPPING, "the agent is stopping")
        for part in self._parts:
            if part.has_failed:
                yield Problem(reasons.PART_FAILED, f"{part.name} has failed; the log says why")
        if self.stalled_s > reasons.STALLED_S:
            text = f"the ring receiver has been in one round for {self.stalled_s:.0f} s; the disk may be slow"
            yield Problem(reasons.RECEIVER_STALLED, text)
        if self._spool.full is not None:
            reason = reasons.DISK_FULL if self._spool.is_disk_full else reasons.SPOOL_FULL
            yield Problem(reason, f"no spans are accepted: {self._spool.full}")
        for path in self._damaged_files():
            text = (
                f"the spool was damaged and moved to {path}; `kaspan agent spool recover` puts back what "
                "can be read of it"
            )
            yield Problem(reasons.SPOOL_DAMAGED, text)
        for text in self._receiver.problems():
            yield Problem(reasons.RING_DIR_REFUSED, text)
        if self._store_sender is not None:
            yield from self._store_problems(self._store_sender)
        for delivery in self._deliveries:
            if delivery.sender is self._store_sender:
                continue  # a store that cannot commit is a problem at once
            failing_s = self._failing_s(delivery)
            if failing_s is not None and failing_s > reasons.FAILING_S:
                text = f"{delivery.sender.name} has failed for {failing_s:.0f} s: {delivery.stats.last_error}"
                yield Problem(reasons.SENDER_FAILING, text)

    def _store_problems(self, sender: StoreSender) -> Iterator[Problem]:
        if sender.problem:
            text = f"the span store takes no spans, and they wait in the spool: {sender.problem}"
            yield Problem(reasons.STORE_FAILING, text)
        damaged = sender.store.totals.damaged_partitions
        if damaged:
            text = (
                f"{damaged} damaged partitions of the span store were moved aside: "
                f"{sender.settings.path}/*.damaged"
            )
            yield Problem(reasons.STORE_DAMAGED, text)

    @property
    def stalled_s(self) -> float:
        """For how long the current round of the ring receiver has lasted, in seconds."""
        return self._clock_s() - self._receiver.ticked_s

    def _damaged_files(self) -> list[str]:
        pattern = f"{escape(self._spool.path)}{DAMAGED_INFIX}*"
        return sorted(path for path in glob(pattern) if not path.endswith("-journal"))

    def _receivers(self) -> ReceiverStatus:
        accepted_spans, refused = {"ring": self._receiver.accepted_spans}, {}
        if self._collector is not None:
            accepted_spans |= self._collector.accepted
            refused = dict.fromkeys(_EXPECTED_REFUSALS, 0) | dict(self._collector.server.refusals)
        return ReceiverStatus(
            accepted_spans=accepted_spans,
            refused_requests=refused,
            services=self._receiver.services(),
            lost_ring_bytes=self._receiver.lost_bytes,
            rejected_rings=self._receiver.rejected_rings,
        )

    def _spool_status(self, senders: Sequence[SenderStatus]) -> SpoolStatus:
        spool = self._spool
        return SpoolStatus(
            path=spool.path,
            spans=spool.totals.spans,
            bytes=spool.totals.bytes,
            max_bytes=spool.max_bytes,
            oldest_age_s=max((s.behind_s for s in senders if s.behind_s is not None), default=None),
            dead_spans=spool.totals.dead_spans,
            dead_bytes=spool.totals.dead_bytes,
            damages=spool.damages,
        )

    def _store_status(self, sender: StoreSender) -> StoreStatus:
        settings, totals = sender.settings, sender.store.totals
        return StoreStatus(
            path=settings.path,
            spans=totals.spans,
            bytes=totals.bytes,
            max_bytes=settings.max_bytes,
            partitions=totals.partitions,
            damaged_partitions=totals.damaged_partitions,
            deleted_spans=totals.deleted_spans,
            oldest_age_s=self._age_s(totals.oldest_s) if totals.oldest_s else None,
            commit_s=sender.commit_s,
        )

    def _sender(self, delivery: Delivery) -> SenderStatus:
        stats = delivery.stats
        batches, oldest_us = self._spool.behind(delivery.sender.name)
        return SenderStatus(
            name=delivery.sender.name,
            sent_spans=stats.sent_spans,
            dead_spans=stats.dead_spans,
            behind_batches=batches,
            behind_s=None if oldest_us is None else self._age_s(oldest_us / 1e6),
            failing_s=self._failing_s(delivery),
            failures=dict(stats.failures),
            last_error=stats.last_error,
            last_error_age_s=self._age_s(stats.last_error_at_s) if stats.last_error_at_s else None,
            last_success_age_s=self._age_s(stats.last_success_at_s) if stats.last_success_at_s else None,
            message_spans=stats.message_spans,
            message_bytes=stats.message_bytes,
            send_s=stats.send_s,
        )

    def _failing_s(self, delivery: Delivery) -> float | None:
        since_s = delivery.stats.failing_since_s
        return None if since_s is None else max(0.0, self._clock_s() - since_s)

    def _age_s(self, at_s: float) -> float:
        return max(0.0, self._wall_clock_s() - at_s)

    def _dropped_spans(self, tally: Tally) -> dict[str, int]:
        """Return all dropped spans by reason: a processor, full dead letters, a damaged spool, age."""
        dropped: Counter[str] = Counter(dict.fromkeys(_ALWAYS_SHOWN, 0))
        dropped.update({f"processor_{kind}": count for kind, count in tally.dropped.items()})
        for kind, count in tally.refused.items():
            dropped[kind if kind == UNREADABLE else f"processor_{kind}_failed"] += count
        dropped.update(self._spool.dropped)
        dropped[DEAD_LETTERS_FULL] += sum(delivery.stats.dropped_spans for delivery in self._deliveries)
        return dict(dropped)
