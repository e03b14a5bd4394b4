"""Topics that the settings leave out, of tracing (`exclude_topics`) or of propagation."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

_MAX_CACHED_TOPICS = 10_000


class ExcludedTopics:
    """Topics that match a glob. Keeps the result for each topic, since topics are few."""

    def __init__(self, globs: Iterable[str]) -> None:
        self._globs = tuple(globs)
        self.known: dict[str, bool] = {}
        """The results: hot paths look here first, which saves a call."""

    def __contains__(self, topic: str) -> bool:
        found = self.known.get(topic)
        if found is None:
            if len(self.known) >= _MAX_CACHED_TOPICS:
                self.known.clear()
            found = self.known[topic] = any(fnmatchcase(topic, glob) for glob in self._globs)
        return found
