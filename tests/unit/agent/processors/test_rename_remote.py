"""kaspan.agent.processors.rename_remote."""

from __future__ import annotations

import pytest

from kaspan.agent.processors.base import Verdict
from kaspan.agent.processors.rename_remote import RenameRemote
from kaspan.wire.span import Endpoint, Span

BY_TOPIC = RenameRemote("kafka", "kafka/{topic}")


def span(remote: str | None, **tags: str) -> Span:
    return Span(trace_id="1", id="2", remote_endpoint=Endpoint(service_name=remote, port=9092), tags=tags)


@pytest.mark.parametrize(
    "tags",
    [
        {"kafka.topic": "orders"},
        {"messaging.destination.name": "orders"},
        {"kafka.topic": "orders", "messaging.destination.name": "other"},
        {"kafka.topic": "", "messaging.destination.name": "orders"},
    ],
)
def test_remote_is_named_after_the_topic(tags: dict[str, str]) -> None:
    """The topic is kafka.topic, else messaging.destination.name; the rest of the endpoint stays."""
    renamed = span("kafka", **tags)
    assert BY_TOPIC.process(renamed) is Verdict.CHANGED
    assert renamed.remote_endpoint == Endpoint(service_name="kafka/orders", port=9092)


def test_other_remotes_are_left_alone() -> None:
    """Only the remote service that is named is renamed, and only where the topic is known."""
    for other in (
        span("mysql", **{"kafka.topic": "orders"}),
        span(None, **{"kafka.topic": "a"}),
        span("kafka"),
    ):
        assert BY_TOPIC.process(other) is Verdict.KEPT
    assert BY_TOPIC.process(Span(trace_id="1", id="2", tags={"kafka.topic": "orders"})) is Verdict.KEPT


def test_remote_is_compared_as_zipkin_does() -> None:
    """Zipkin knows services in lower case only."""
    assert (
        RenameRemote("Broker", "{topic}").process(span("BROKER", **{"kafka.topic": "a"})) is Verdict.CHANGED
    )


def test_remote_that_has_the_name_already_is_not_changed() -> None:
    """A template that gives the same name changes nothing."""
    assert RenameRemote("kafka", "kafka").process(span("kafka", **{"kafka.topic": "a"})) is Verdict.KEPT
