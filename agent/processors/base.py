"""The contract of a processor: it gets one span before it is stored, and may change or drop it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum

from kaspan.wire.span import Span

TOPIC_TAGS = ("kafka.topic", "messaging.destination.name")
"""Tags that name the topic of a span: first Brave's and kaspan's, then OpenTelemetry's.

The interceptor writes both: `kafka.send_templates`, `kafka.process_span` and `tracing.readable_span`.
"""


class Verdict(Enum):
    """What a processor did to a span."""

    KEPT = "kept"
    CHANGED = "changed"
    DROPPED = "dropped"


class Processor(ABC):
    """Does one thing to one span.

    `type` is its type in the settings, and in counters. A processor with `is_guard` removes what must not be
    stored: a span that it fails on is dropped. A span that another processor fails on passes unchanged.
    """

    type: str
    is_guard = False

    @abstractmethod
    def process(self, span: Span) -> Verdict:
        """Process a span and return what was done to it. Never blocks; any thread may call it.

        It changes the span in one step, after everything that may fail, so that a failure changes nothing.
        """


def topic_of(tags: Mapping[str, str]) -> str | None:
    """Return the topic that a span's tags name, None without one."""
    for name in TOPIC_TAGS:
        topic = tags.get(name)
        if topic:
            return topic
    return None
