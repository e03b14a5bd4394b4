"""Globs for names that repeat: tags, services, topics."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate

_REMEMBERED_NAMES = 10_000  # names come from clients, which may send endlessly many


class Globs:
    """A set of globs; * matches any text, ? any one character."""

    def __init__(self, globs: Iterable[str], ignore_case: bool) -> None:
        flags = re.IGNORECASE if ignore_case else 0
        # `translate` writes expressions that cannot backtrack without end.
        self._match = re.compile("|".join(map(translate, globs)), flags).match
        self._results: dict[str, bool] = {}

    def matches(self, name: str) -> bool:
        """Whether one of the globs matches the whole name."""
        is_match = self._results.get(name)
        if is_match is None:
            if len(self._results) >= _REMEMBERED_NAMES:
                self._results.clear()
            is_match = self._results[name] = self._match(name) is not None
        return is_match
