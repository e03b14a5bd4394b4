"""kaspan.agent.monitoring.metrics: numbers as Prometheus reads them."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kaspan.agent.histogram import Histogram
from kaspan.agent.monitoring.metrics import render
from kaspan.agent.status import (
    REASONS,
    Problem,
    ReceiverStatus,
    SenderStatus,
    ServiceStatus,
    SpoolStatus,
    Status,
    StoreStatus,
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def status(service: str = "orders", sender: str = "zipkin http://z") -> Status:
    durations = Histogram.of((0.1, 1.0))
    for value in (0.05, 0.5, 0.7, 3.0):
        durations.add(value)
    return Status(
        version="0.1.0",
        pid=1,
        started_at_s=1000.5,
        problems=[Problem("sender_failing", "it fails")],
        receivers=ReceiverStatus(
            {"ring": 10, "http": 5}, {"too large": 2}, [ServiceStatus(service, 10, 3, 1, 2, 0.5, 99)], 7, 8
        ),
        spool=SpoolStatus("/spool.db", 4, 1600, 1 << 30, 12.5, 1, 400, 0),
        senders=[
            SenderStatus(
                *(sender, 11, 1, 2, 12.5, None, {"503": 6}, "HTTP 503", 1.0, None),
                *(Histogram.of((1,)), Histogram.of((1,)), durations),
            )
        ],
        dropped_spans={"processor_drop": 9},
        failed_spans={},
        store=StoreStatus("/store", 7, 4096, 1 << 30, 2, 1, 11, 60.5, durations),
    )


def samples(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, tuple(sorted(labels.items()))]


def test_numbers_are_what_prometheus_parses() -> None:
    """Every number is there by its name and labels."""
    found = samples(render(status()))
    sender = {"sender": "zipkin http://z"}
    assert value(found, "kaspan_agent_receiver_accepted_spans_total", receiver="ring") == 10
    assert value(found, "kaspan_agent_receiver_refused_requests_total", reason="too_large") == 2
    assert value(found, "kaspan_agent_ring_dropped_spans_total", service="orders") == 3
    assert value(found, "kaspan_agent_ring_fill_ratio", service="orders") == 0.5
    assert value(found, "kaspan_agent_dropped_spans_total", reason="processor_drop") == 9
    assert value(found, "kaspan_agent_spool_oldest_age_seconds") == 12.5
    assert value(found, "kaspan_agent_sender_sent_spans_total", **sender) == 11
    assert value(found, "kaspan_agent_sender_failed_sends_total", reason="503", **sender) == 6
    assert value(found, "kaspan_agent_sender_failing_seconds", **sender) == 0
    assert value(found, "kaspan_agent_store_spans") == 7
    assert value(found, "kaspan_agent_store_bytes") == 4096
    assert value(found, "kaspan_agent_store_capacity_bytes") == 1 << 30
    assert value(found, "kaspan_agent_store_partitions") == 2
    assert value(found, "kaspan_agent_store_damaged_partitions") == 1
    assert value(found, "kaspan_agent_store_deleted_spans_total") == 11
    assert value(found, "kaspan_agent_store_oldest_age_seconds") == 60.5
    assert value(found, "kaspan_agent_store_commit_duration_seconds_count") == 4
    assert value(found, "process_start_time_seconds") == 1000.5
    assert value(found, "process_resident_memory_bytes") > 1_000_000


def test_agent_without_a_store_has_no_metric_of_one() -> None:
    """A dashboard would show an empty store."""
    without = msgspec.structs.replace(status(), store=None)
    assert not [name for name, _ in samples(render(without)) if name.startswith("kaspan_agent_store_")]


def test_every_reason_has_a_series_also_while_it_is_not_so() -> None:
    """An alert on a series that is not there would never fire and never resolve."""
    found = samples(render(status()))
    shown = {reason: value(found, "kaspan_agent_problem", reason=reason) for reason in REASONS}
    assert shown == dict.fromkeys(REASONS, 0) | {"sender_failing": 1}
    assert value(found, "kaspan_agent_taking_spans") == 1


def test_buckets_are_cumulative() -> None:
    """Each bucket holds the ones below it; the last one is the count."""
    found = samples(render(status()))
    name, sender = "kaspan_agent_send_duration_seconds", {"sender": "zipkin http://z"}
    buckets = [value(found, f"{name}_bucket", le=bound, **sender) for bound in ("0.1", "1.0", "+Inf")]
    assert buckets == [1, 3, 4]
    assert value(found, f"{name}_count", **sender) == 4
    assert value(found, f"{name}_sum", **sender) == 4.25


def test_every_family_is_described_and_counters_end_in_total() -> None:
    """Names and types follow Prometheus' own rules."""
    for family in text_string_to_metric_families(render(status())):
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        totals = [sample.name.endswith("_total") for sample in family.samples]
        assert all(totals) if family.type == "counter" else not any(totals)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_no_name_breaks_the_format(service: str, sender: str) -> None:
    """A service's name is text from a file."""
    found = samples(render(status(service, sender)))
    assert value(found, "kaspan_agent_ring_dropped_spans_total", service=service) == 3
    assert value(found, "kaspan_agent_sender_sent_spans_total", sender=sender) == 11
