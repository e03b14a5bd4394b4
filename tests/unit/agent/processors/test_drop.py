"""kaspan.agent.processors.drop."""

from __future__ import annotations

import pytest

from kaspan.agent.processors.base import Verdict
from kaspan.agent.processors.drop import Drop
from kaspan.wire.span import Endpoint, Span

SPAN = Span(
    trace_id="1",
    id="2",
    name="GET /Health",
    local_endpoint=Endpoint(service_name="Orders-API"),
    tags={"kafka.topic": "audit.Login"},
)
NOTHING_KNOWN = Span(trace_id="1", id="2")


@pytest.mark.parametrize(
    ("services", "topics", "names"),
    [
        (["orders-*"], [], []),
        (["x", "ORDERS-?PI"], [], []),
        ([], ["audit.*"], []),
        ([], [], ["get /health"]),
        (["orders-*"], ["audit.*"], ["get *"]),
    ],
)
def test_span_that_fits_is_dropped(services: list[str], topics: list[str], names: list[str]) -> None:
    """A span goes when it fits one glob of each kind given; services and names in any case."""
    assert Drop(services, topics, names).process(SPAN) is Verdict.DROPPED


@pytest.mark.parametrize(
    ("services", "topics", "names"),
    [
        (["orders"], [], []),
        ([], ["audit.login"], []),
        ([], ["auditXLogin"], []),
        (["orders-*"], ["other"], []),
        (["orders-*"], [], ["other"]),
    ],
)
def test_span_that_does_not_fit_stays(services: list[str], topics: list[str], names: list[str]) -> None:
    """Globs match the whole text, a dot is a dot, case counts in topics, and every given kind must match."""
    assert Drop(services, topics, names).process(SPAN) is Verdict.KEPT


def test_span_without_service_topic_or_name_stays() -> None:
    """What a span does not say fits no glob, not even *."""
    for drop in (Drop(["*"], [], []), Drop([], ["*"], []), Drop([], [], ["*"])):
        assert drop.process(NOTHING_KNOWN) is Verdict.KEPT
