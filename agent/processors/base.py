"""What a processor is: something that looks at one span before it is stored, and may change or drop it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from enum import Enum

from kaspan.wire.span import Span

TOPIC_TAGS = ("kafka.topic", "messaging.destination.name")
"""Where a span says its topic: Brave's and kaspan's tag, then OpenTelemetry's."""


class Verdict(Enum):
    """What became of a span."""

    KEPT = "kept"
    CHANGED = "changed"
    DROPPED = "dropped"


class Processor(ABC):
    """Does one thing to one span.

    `type` is its type in the settings, by which it is counted. A processor that `is_guard` stands for what
    must not be stored: a span that it fails on is dropped, where any other would let it pass unchanged.
    """

    type: str
    is_guard = False

    @abstractmethod
    def process(self, span: Span) -> Verdict:
        """Look at a span and say what became of it. Never blocks; any thread may call it.

        A change is made in one step, after everything that may fail, so that failing changes nothing.
        """


def topic_of(tags: Mapping[str, str]) -> str | None:
    """The topic that a span's tags name, None if they name none."""
    for name in TOPIC_TAGS:
        topic = tags.get(name)
        if topic:
            return topic
    return None
