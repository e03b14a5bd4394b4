"""The processor `redact`: hides what must not be stored, by names of tags or by patterns in values."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kaspan.agent.globs import Globs
from kaspan.agent.processors.base import Processor, Verdict
from kaspan.wire.span import Annotation, Span

if TYPE_CHECKING:
    # Needs google-re2, which hiding tags by name does not.
    from kaspan.agent.processors.patterns import Patterns

MASK = b"***"
HASH_DIGITS = 16
"""64 bits: the chance that two of a million values get the same hash is 1 in 37 million."""

Replacement = Callable[[bytes], bytes]


def masked(_value: bytes) -> bytes:
    """Return the same mask for every value."""
    return MASK


def hashed_with(secret: bytes) -> Replacement:
    """Return a replacement that keeps equal values equal: a truncated HMAC-SHA-256 in hexadecimal."""

    def hashed(value: bytes) -> bytes:
        return hmac.digest(secret, value, "sha256").hex()[:HASH_DIGITS].encode()

    return hashed


def _removed(_value: bytes) -> bytes:
    return b""


class Redact(Processor):
    """Hides values of tags whose names match, or what `patterns` match; with both, matches in those tags.

    Patterns without names are searched for in all tags, in annotations and in the span's name. `replacement`
    makes the new value; with None the tag, annotation or name is removed.
    """

    type = "redact"
    is_guard = True

    def __init__(
        self, names: Sequence[str], patterns: Patterns | None, replacement: Replacement | None
    ) -> None:
        self._names = Globs(names, ignore_case=True) if names else None
        self._patterns = patterns
        self._replacement = replacement

    def process(self, span: Span) -> Verdict:
        """Hide the names' values and the patterns' matches in a span."""
        globs = self._names
        names = list(span.tags) if globs is None else [name for name in span.tags if globs.matches(name)]
        texts = [span.tags[name] for name in names]
        if globs is None:
            texts += [annotation.value for annotation in span.annotations]
            texts.append(span.name or "")
        hidden = self._hidden(texts)
        if not hidden:
            return Verdict.KEPT
        left = [hidden.get(place, text) for place, text in enumerate(texts)]
        tags = {**span.tags, **dict(zip(names, left[: len(names)], strict=True))}
        span.tags = {name: value for name, value in tags.items() if value is not None}
        if globs is None:
            values = zip(span.annotations, left[len(names) : -1], strict=True)
            span.annotations = [Annotation(seen.timestamp, text) for seen, text in values if text is not None]
            span.name = left[-1] or None
        return Verdict.CHANGED

    def _hidden(self, texts: Sequence[str]) -> dict[int, str | None]:
        """Return the new values of the texts that change, by index; None removes the text."""
        if self._patterns is None:
            replace = self._replacement
            return {
                place: None if replace is None else replace(text.encode()).decode()
                for place, text in enumerate(texts)
            }
        hidden = {}
        for place in self._patterns.find_in(texts):
            value = texts[place].encode()
            left = self._patterns.replace(value, self._replacement or _removed)
            if left != value:
                hidden[place] = None if self._replacement is None else left.decode()
        return hidden
