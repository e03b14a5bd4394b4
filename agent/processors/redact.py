"""The processor `redact`: hides what must not be stored, by a tag's name or by what values look like."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from kaspan.agent.processors.base import Processor, Verdict
from kaspan.agent.processors.globs import Globs
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
        names = self._names
        chosen = list(span.tags) if names is None else [name for name in span.tags if names.fit(name)]
        if not self._may_occur(span, chosen):
            return Verdict.KEPT
        span.tags = self._hidden_tags(span.tags, chosen)
        if names is None:
            span.annotations = list(self._hidden_annotations(span.annotations))
            span.name = self._hide(span.name) if span.name else span.name
        return Verdict.CHANGED

    def _may_occur(self, span: Span, chosen: Sequence[str]) -> bool:
        if self._patterns is None:
            return bool(chosen)
        values = [span.tags[name] for name in chosen]
        if self._names is None:
            values += [annotation.value for annotation in span.annotations]
            values.append(span.name or "")
        return self._patterns.occur_in([value.encode() for value in values])

    def _hidden_tags(self, tags: dict[str, str], chosen: Sequence[str]) -> dict[str, str]:
        hidden = dict(tags)
        for name in chosen:
            value = self._hide(hidden[name])
            if value is None:
                del hidden[name]
            else:
                hidden[name] = value
        return hidden

    def _hidden_annotations(self, annotations: Iterable[Annotation]) -> Iterable[Annotation]:
        for annotation in annotations:
            value = self._hide(annotation.value)
            if value is not None:
                yield Annotation(annotation.timestamp, value)

    def _hide(self, text: str) -> str | None:
        """What is left of a text, None if that is nothing."""
        value = text.encode()
        if self._patterns is None:
            return None if self._replacement is None else self._replacement(value).decode()
        hidden = self._patterns.replace(value, self._replacement or _removed)
        return None if self._replacement is None and hidden != value else hidden.decode()
