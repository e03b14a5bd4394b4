"""The agent's metrics in Prometheus' text format, version 0.0.4.

Without prometheus-client, which would cost 2.4 MB and 0.1 s for a loop over numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kaspan.agent.histogram import Histogram
from kaspan.agent.status import (
    REASONS,
    ReceiverStatus,
    SenderStatus,
    ServiceStatus,
    SpoolStatus,
    Status,
    StoreStatus,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "kaspan_agent_"

_COUNTER, _GAUGE = "counter", "gauge"
_BY_SERVICE: tuple[tuple[str, str, str, Callable[[ServiceStatus], float]], ...] = (
    (
        "ring_accepted_spans_total",
        _COUNTER,
        "Accepted spans that came from rings, by the service that wrote them.",
        lambda service: service.accepted_spans,
    ),
    (
        "ring_dropped_spans_total",
        _COUNTER,
        "Spans that applications dropped because their ring was full.",
        lambda service: service.dropped_spans,
    ),
    (
        "ring_suppressed_errors_total",
        _COUNTER,
        "Failures of the interceptor, which it kept from the application.",
        lambda service: service.suppressed_errors,
    ),
    (
        "ring_polled_records_total",
        _COUNTER,
        "Records that poll() has returned; 0 while all of their spans have a length.",
        lambda service: service.polled_records,
    ),
    (
        "ring_records_without_length_total",
        _COUNTER,
        "Polled records whose span has no length, since the application took them out of their list.",
        lambda service: service.records_without_length,
    ),
    ("rings", _GAUGE, "Rings that the agent reads.", lambda service: service.rings),
    ("ring_fill_ratio", _GAUGE, "How full the fullest ring is, 0 to 1.", lambda service: service.fill),
)
_BY_SENDER: tuple[tuple[str, str, str, Callable[[SenderStatus], float]], ...] = (
    (
        "sender_sent_spans_total",
        _COUNTER,
        "Spans that the target has accepted.",
        lambda sender: sender.sent_spans,
    ),
    (
        "sender_dead_lettered_spans_total",
        _COUNTER,
        "Spans that the target refuses, kept as dead letters.",
        lambda sender: sender.dead_spans,
    ),
    (
        "sender_failing_seconds",
        _GAUGE,
        "For how long every attempt has failed; 0 while the sender works.",
        lambda sender: sender.failing_s or 0,
    ),
    (
        "sender_lag_batches",
        _GAUGE,
        "Batches in the spool that the sender has not passed.",
        lambda sender: sender.behind_batches,
    ),
    (
        "sender_lag_seconds",
        _GAUGE,
        "Age of the oldest batch that the sender has not passed; 0 without one.",
        lambda sender: sender.behind_s or 0,
    ),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[SenderStatus], Histogram]], ...] = (
    ("batch_spans", "Spans in a message.", lambda sender: sender.message_spans),
    ("batch_bytes", "Bytes of a message.", lambda sender: sender.message_bytes),
    (
        "send_duration_seconds",
        "Time from sending a message until the target accepts or refuses it.",
        lambda sender: sender.send_s,
    ),
)
_Labels = tuple[tuple[str, str], ...]
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def render(status: Status) -> str:
    """Return all metrics as text. Reads this process's CPU times and memory from /proc."""
    families = (
        *_agent(status),
        *_receivers(status.receivers),
        *_drops(status),
        *_spool(status.spool),
        *(_store(status.store) if status.store is not None else ()),
        *_senders(status.senders),
        *_process(status.started_at_s),
    )
    return "".join(line + "\n" for family in families for line in family)


def _family(name: str, kind: str, help_text: str, samples: Mapping[_Labels, float]) -> list[str]:
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    return lines + [_sample(name, labels, value) for labels, value in samples.items()]


def _sample(name: str, labels: _Labels, value: float) -> str:
    shown = ",".join(f'{label}="{text.translate(_ESCAPES)}"' for label, text in labels)
    return f"{name}{{{shown}}} {value!r}" if shown else f"{name} {value!r}"


def _one(name: str, kind: str, help_text: str, value: float) -> list[str]:
    return _family(PREFIX + name, kind, help_text, {(): value})


def _by(name: str, kind: str, help_text: str, label: str, values: Mapping[str, float]) -> list[str]:
    samples: dict[_Labels, float] = {((label, text),): value for text, value in values.items()}
    return _family(PREFIX + name, kind, help_text, samples)


def _agent(status: Status) -> Iterator[list[str]]:
    present = {problem.reason for problem in status.problems}
    yield _by("info", _GAUGE, "The agent's version.", "version", {status.version: 1})
    yield _one("taking_spans", _GAUGE, "1 while the agent accepts spans.", int(status.is_accepting))
    wrong = {reason: int(reason in present) for reason in REASONS}
    yield _by("problem", _GAUGE, "1 while the agent has this problem; see /health.", "reason", wrong)


def _receivers(receivers: ReceiverStatus) -> Iterator[list[str]]:
    help_text = "Spans that are stored in the spool, or that a processor dropped."
    yield _by("receiver_accepted_spans_total", _COUNTER, help_text, "receiver", receivers.accepted_spans)
    help_text = "HTTP requests that the agent refused; each answer says why."
    refused = {reason.replace(" ", "_"): count for reason, count in receivers.refused_requests.items()}
    yield _by("receiver_refused_requests_total", _COUNTER, help_text, "reason", refused)
    for name, kind, help_text, value in _BY_SERVICE:
        yield _by(
            name, kind, help_text, "service", {service.name: value(service) for service in receivers.services}
        )
    help_text = "Bytes of spans that were lost in damaged rings."
    yield _one("ring_lost_bytes_total", _COUNTER, help_text, receivers.lost_ring_bytes)
    help_text = "Files in ring directories that are not valid rings."
    yield _one("ring_rejected_total", _COUNTER, help_text, receivers.rejected_rings)


def _drops(status: Status) -> Iterator[list[str]]:
    help_text = "Accepted spans that were dropped undelivered."
    yield _by("dropped_spans_total", _COUNTER, help_text, "reason", status.dropped_spans)
    help_text = "Spans that a processor failed on and passed on unchanged."
    yield _by("processor_failed_spans_total", _COUNTER, help_text, "processor", status.failed_spans)


def _spool(spool: SpoolStatus) -> Iterator[list[str]]:
    yield _one("spool_spans", _GAUGE, "Spans that wait on disk.", spool.spans)
    yield _one("spool_bytes", _GAUGE, "Bytes of spans that wait on disk.", spool.bytes)
    yield _one("spool_capacity_bytes", _GAUGE, "agent.spool.max_bytes.", spool.max_bytes)
    help_text = "How long the oldest span has waited; 0 when no span waits."
    yield _one("spool_oldest_age_seconds", _GAUGE, help_text, spool.oldest_age_s or 0)
    yield _one("spool_damaged_total", _COUNTER, "Damaged spools that were moved aside.", spool.damages)
    yield _one(
        "dead_letter_spans", _GAUGE, "Spans that a target refused, kept as dead letters.", spool.dead_spans
    )
    yield _one("dead_letter_bytes", _GAUGE, "Bytes of dead letters.", spool.dead_bytes)


def _store(store: StoreStatus) -> Iterator[list[str]]:
    yield _one("store_spans", _GAUGE, "Spans in the span store.", store.spans)
    yield _one("store_bytes", _GAUGE, "Bytes of the span store on disk.", store.bytes)
    yield _one("store_capacity_bytes", _GAUGE, "agent.store.max_bytes.", store.max_bytes)
    yield _one("store_partitions", _GAUGE, "Files of the span store.", store.partitions)
    help_text = "How long ago the oldest span in the store came; 0 without a span."
    yield _one("store_oldest_age_seconds", _GAUGE, help_text, store.oldest_age_s or 0)
    help_text = (
        "Spans that were deleted since the store was full, or they were older than agent.store.max_age_s."
    )
    yield _one("store_deleted_spans_total", _COUNTER, help_text, store.deleted_spans)
    help_text = "Damaged files of the span store that were moved aside."
    yield _one("store_damaged_partitions", _GAUGE, help_text, store.damaged_partitions)
    help_text = "Time to write spans to the span store, with the flush of the disk."
    yield _histograms(f"{PREFIX}store_commit_duration_seconds", help_text, {"": store.commit_s})


def _senders(senders: list[SenderStatus]) -> Iterator[list[str]]:
    for name, kind, help_text, value in _BY_SENDER:
        yield _by(name, kind, help_text, "sender", {sender.name: value(sender) for sender in senders})
    failures: dict[_Labels, float] = {
        (("sender", sender.name), ("reason", reason)): count
        for sender in senders
        for reason, count in sender.failures.items()
    }
    help_text = "Attempts that failed or were refused, by HTTP status or error. No span is lost by these."
    yield _family(f"{PREFIX}sender_failed_sends_total", _COUNTER, help_text, failures)
    for name, help_text, histogram in _HISTOGRAMS:
        yield _histograms(PREFIX + name, help_text, {sender.name: histogram(sender) for sender in senders})


def _histograms(name: str, help_text: str, by_sender: Mapping[str, Histogram]) -> list[str]:
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} histogram"]
    for sender, histogram in by_sender.items():
        labels: _Labels = (("sender", sender),) if sender else ()
        total = 0
        for bound, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            total += count
            lines.append(_sample(f"{name}_bucket", (*labels, ("le", str(bound))), total))
        lines.append(_sample(f"{name}_sum", labels, histogram.sum))
        lines.append(_sample(f"{name}_count", labels, total))
    return lines


def _process(started_at_s: float) -> Iterator[list[str]]:
    """Yield the process metrics that Prometheus' client libraries have, by the same names."""
    times = os.times()
    resident_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    resident_bytes = resident_pages * os.sysconf("SC_PAGE_SIZE")
    used_s = times.user + times.system
    yield _family("process_cpu_seconds_total", _COUNTER, "CPU seconds spent.", {(): used_s})
    yield _family("process_resident_memory_bytes", _GAUGE, "Resident memory.", {(): resident_bytes})
    yield _family("process_start_time_seconds", _GAUGE, "Unix time of start.", {(): started_at_s})
