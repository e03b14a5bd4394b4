"""The processor `drop`: drops unwanted spans before they are stored."""

from __future__ import annotations

from collections.abc import Sequence

from kaspan.agent.globs import Globs
from kaspan.agent.processors.base import Processor, Verdict, topic_of
from kaspan.wire.span import Span


class Drop(Processor):
    """Drops a span that matches, for every kind with globs, one glob of that kind.

    Services and span names match in any case, since Zipkin writes them in lower case; topics are
    case-sensitive.
    """

    type = "drop"

    def __init__(self, services: Sequence[str], topics: Sequence[str], names: Sequence[str]) -> None:
        self._services = Globs(services, ignore_case=True) if services else None
        self._topics = Globs(topics, ignore_case=False) if topics else None
        self._names = Globs(names, ignore_case=True) if names else None

    def process(self, span: Span) -> Verdict:
        """Drop the span if it matches."""
        local = span.local_endpoint
        is_match = (
            _matches(self._services, local.service_name if local else None)
            and _matches(self._topics, topic_of(span.tags))
            and _matches(self._names, span.name)
        )
        return Verdict.DROPPED if is_match else Verdict.KEPT


def _matches(globs: Globs | None, text: str | None) -> bool:
    return globs is None or (text is not None and globs.matches(text))
