"""kaspan.agent.processors.add_tags."""

from __future__ import annotations

from kaspan.agent.processors.add_tags import AddTags
from kaspan.agent.processors.base import Verdict
from kaspan.wire.span import Span


def span(**tags: str) -> Span:
    return Span(trace_id="1", id="2", tags=tags)


def test_tags_are_added_to_a_span_with_and_without_others() -> None:
    """Every span gets the tags, and keeps its own."""
    for own in ({}, {"kafka.topic": "orders"}):
        tagged = span(**own)
        assert AddTags({"host": "a"}, overwrite=False).process(tagged) is Verdict.CHANGED
        assert tagged.tags == {"host": "a", **own}


def test_tag_that_a_span_has_stays() -> None:
    """The application's own tag wins."""
    tagged = span(host="app")
    assert AddTags({"host": "a"}, overwrite=False).process(tagged) is Verdict.KEPT
    assert tagged.tags == {"host": "app"}


def test_tag_is_overwritten_when_asked_for() -> None:
    """With overwrite the agent's tag wins."""
    tagged = span(host="app")
    assert AddTags({"host": "a"}, overwrite=True).process(tagged) is Verdict.CHANGED
    assert tagged.tags == {"host": "a"}


def test_span_that_has_the_tags_is_not_changed() -> None:
    """A span with the same tags and values is left as it is."""
    assert AddTags({"host": "a"}, overwrite=True).process(span(host="a")) is Verdict.KEPT
