"""The processor `redact`: hides what must not be stored, by a tag's name or by what values look like."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kaspan.agent.globs import Globs
from kaspan.agent.processors.base import Processor, Verdict
from kaspan.wire.span import Annotation, Span

if TYPE_CHECKING:
    # Needs google-re2, which who hides tags by name need not have.
    from kaspan.agent.processors.patterns import Patterns

MASK = b"***"
HASH_DIGITS = 16
"""64 bits: that any two of a million values get the same hash has a chance of 1 in 37 million."""

Replacement = Callable[[bytes], bytes]


def masked(_value: bytes) -> bytes:
    """What stands for a value that nobody needs to tell from others."""
    return MASK


def hashed_with(secret: bytes) -> Replacement:
    """Make what hides a value and still tells it from others: its HMAC-SHA-256, cut, in hexadecimal."""

    def hashed(value: bytes) -> bytes:
        return hmac.digest(secret, value, "sha256").hex()[:HASH_DIGITS].encode()

    return hashed


def _removed(_value: bytes) -> bytes:
    return b""


class Redact(Processor):
    """Hides whole values of tags with certain names, or what `patterns` match, or both: that in those tags.

    Patterns without names are looked for in all tags, in annotations and in the span's name. `replacement`
    makes what stands in a value's place; None removes the tag, annotation or name altogether.
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
        """Hide what is to be hidden."""
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
        """What becomes of the texts that change, by their places; None for nothing."""
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
