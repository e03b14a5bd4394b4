"""The agent's status: its counters and problems, for /status, /health, /metrics and `kaspan agent status`."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from kaspan.agent.histogram import Histogram

FAILING_S = 60.0
"""A sender that fails for longer makes the agent degraded; most targets are back sooner."""
STALLED_S = 30.0
"""How long one round of the ring receiver may take; it waits for the disk only."""

SPOOL_FULL = "spool_full"
DISK_FULL = "disk_full"
SPOOL_DAMAGED = "spool_damaged"
SENDER_FAILING = "sender_failing"
RECEIVER_STALLED = "receiver_stalled"
PART_FAILED = "part_failed"
RING_DIR_REFUSED = "ring_dir_refused"
STORE_FAILING = "store_failing"
STORE_DAMAGED = "store_damaged"
STOPPING = "stopping"
REASONS = (
    *(SPOOL_FULL, DISK_FULL, SPOOL_DAMAGED, SENDER_FAILING, RECEIVER_STALLED, PART_FAILED),
    *(RING_DIR_REFUSED, STORE_FAILING, STORE_DAMAGED, STOPPING),
)
"""All reasons of problems."""
_REFUSING = frozenset((SPOOL_FULL, DISK_FULL, RECEIVER_STALLED, PART_FAILED, STOPPING))


class Problem(msgspec.Struct, frozen=True):
    """One problem: a reason of REASONS, and a text for people."""

    reason: str
    text: str


class ServiceStatus(msgspec.Struct):
    """What came from one service's rings since the agent started, and the state of its rings.

    `dropped_spans`, `suppressed_errors`, `polled_records` and `records_without_length` are counted by the
    writers, also before the agent started. `fill` is how full the fullest ring is, 0 to 1.
    """

    name: str
    accepted_spans: int = msgspec.field(name="taken_spans", default=0)
    dropped_spans: int = 0
    suppressed_errors: int = 0
    rings: int = 0
    fill: float = 0.0
    unread_bytes: int = 0
    polled_records: int = 0
    records_without_length: int = 0


class ReceiverStatus(msgspec.Struct):
    """Accepted spans by receiver, refused requests by reason, and losses in rings."""

    accepted_spans: dict[str, int] = msgspec.field(name="taken_spans")
    refused_requests: dict[str, int]
    services: list[ServiceStatus]
    lost_ring_bytes: int
    rejected_rings: int


class SpoolStatus(msgspec.Struct):
    """What waits on disk. `oldest_age_s`: how long the oldest span has waited, None if no span waits."""

    path: str
    spans: int
    bytes: int
    max_bytes: int
    oldest_age_s: float | None
    dead_spans: int
    dead_bytes: int
    damages: int


class StoreStatus(msgspec.Struct):
    """What the span store holds. `oldest_age_s`: how long ago the oldest span came, None without a span.

    `deleted_spans`, for their age or for the store's size, and `commit_s` are counted since the agent
    started; `damaged_partitions` are those that lie in the directory.
    """

    path: str
    spans: int
    bytes: int
    max_bytes: int
    partitions: int
    damaged_partitions: int
    deleted_spans: int
    oldest_age_s: float | None
    commit_s: Histogram


class SenderStatus(msgspec.Struct):
    """What one sender did since the agent started, and how far it is behind.

    `failing_s`: for how long it has failed, None while it works. An age is None before the first event.
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
    """The whole status of an agent at one moment. `started_at_s` is a Unix time.

    `dropped_spans` are counted by reason, `failed_spans` by the processor that failed on them and passed them
    on. `store` is None without a span store.
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
    store: StoreStatus | None = None

    @property
    def state(self) -> str:
        """`ready`, or `degraded` if there is a problem."""
        return state(self.problems)

    @property
    def is_accepting(self) -> bool:
        """Whether the agent accepts spans now."""
        return is_accepting(self.problems)


def state(problems: Collection[Problem]) -> str:
    """Return `ready`, or `degraded` if there is a problem."""
    return "degraded" if problems else "ready"


def is_accepting(problems: Collection[Problem]) -> bool:
    """Whether an agent with these problems accepts spans; a failing sender does not prevent that."""
    return not any(problem.reason in _REFUSING for problem in problems)
