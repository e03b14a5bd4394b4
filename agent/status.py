"""How the agent is: what it counts and what is wrong with it, as one value that is shown in several ways."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from kaspan.agent.histogram import Histogram

FAILING_S = 60.0
"""A sender that fails for longer than this makes the agent degraded: most targets come back sooner."""
STALLED_S = 30.0
"""So long may one round of the ring receiver take: all it waits for is the disk."""

SPOOL_FULL = "spool_full"
DISK_FULL = "disk_full"
SPOOL_DAMAGED = "spool_damaged"
SENDER_FAILING = "sender_failing"
RECEIVER_STALLED = "receiver_stalled"
PART_FAILED = "part_failed"
RING_DIR_REFUSED = "ring_dir_refused"
STOPPING = "stopping"
REASONS = (
    *(SPOOL_FULL, DISK_FULL, SPOOL_DAMAGED, SENDER_FAILING, RECEIVER_STALLED, PART_FAILED),
    *(RING_DIR_REFUSED, STOPPING),
)
"""Everything that may be wrong."""
_REFUSING = frozenset((SPOOL_FULL, DISK_FULL, RECEIVER_STALLED, PART_FAILED, STOPPING))


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong: a reason of REASONS, and a text for people."""

    reason: str
    text: str


class ServiceStatus(msgspec.Struct):
    """What one service's rings brought since the agent started, and how they are now.

    `dropped_spans` and `suppressed_errors` are the writers' own counts, also of the time before the agent.
    `fill` is that of the fullest ring, 0 to 1.
    """

    name: str
    accepted_spans: int = msgspec.field(name="taken_spans", default=0)
    dropped_spans: int = 0
    suppressed_errors: int = 0
    rings: int = 0
    fill: float = 0.0
    unread_bytes: int = 0


class ReceiverStatus(msgspec.Struct):
    """What came in: spans by way, requests that were refused by reason, and what rings have lost."""

    accepted_spans: dict[str, int] = msgspec.field(name="taken_spans")
    refused_requests: dict[str, int]
    services: list[ServiceStatus]
    lost_ring_bytes: int
    rejected_rings: int


class SpoolStatus(msgspec.Struct):
    """What waits on disk. `oldest_age_s` is of what waits longest, None if nothing does."""

    path: str
    spans: int
    bytes: int
    max_bytes: int
    oldest_age_s: float | None
    dead_spans: int
    dead_bytes: int
    damages: int


class SenderStatus(msgspec.Struct):
    """What one sender did since the agent started, and how far it is behind.

    `failing_s` is for how long it has failed, None while it works; ages are None where nothing happened yet.
    """

    name: str
    sent_spans: int
    dead_spans: int
    behind_batches: int
    behind_s: float | None
    failing_s: float | None
    failures: dict[str, int]
    last_error: str
    last_error_age_s: float | None
    last_success_age_s: float | None
    message_spans: Histogram
    message_bytes: Histogram
    send_s: Histogram


class Status(msgspec.Struct):
    """Everything that is known about an agent at one moment; it started at a Unix time in seconds.

    `dropped_spans` are by reason; `failed_spans` by the processor that failed on them and let them pass.
    """

    version: str
    pid: int
    started_at_s: float
    problems: list[Problem]
    receivers: ReceiverStatus
    spool: SpoolStatus
    senders: list[SenderStatus]
    dropped_spans: dict[str, int]
    failed_spans: dict[str, int]

    @property
    def state(self) -> str:
        """`ready`, or `degraded` when anything is wrong."""
        return state(self.problems)

    @property
    def is_accepting(self) -> bool:
        """Whether spans that come now are taken."""
        return is_accepting(self.problems)


def state(problems: Collection[Problem]) -> str:
    """`ready`, or `degraded` when anything is wrong."""
    return "degraded" if problems else "ready"


def is_accepting(problems: Collection[Problem]) -> bool:
    """Whether spans that come now are taken: what is wrong with a sender does not keep them out."""
    return not any(problem.reason in _REFUSING for problem in problems)
