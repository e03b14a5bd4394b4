"""The processor `add_tags`: adds tags to every span, for example where it was made."""

from __future__ import annotations

from collections.abc import Mapping

from kaspan.agent.processors.base import Processor, Verdict
from kaspan.wire.span import Span


class AddTags(Processor):
    """Adds the same tags to every span. A tag that the span has already stays, unless `overwrite`."""

    type = "add_tags"

    def __init__(self, tags: Mapping[str, str], overwrite: bool) -> None:
        self._tags = dict(tags)
        self._overwrite = overwrite

    def process(self, span: Span) -> Verdict:
        """Add the missing tags; with `overwrite` also replace different values."""
        tags = {**span.tags, **self._tags}
        if not self._overwrite:
            tags.update(span.tags)
        if tags == span.tags:
            return Verdict.KEPT
        span.tags = tags
        return Verdict.CHANGED
