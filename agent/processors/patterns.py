"""Regular expressions for values from anywhere: RE2's, since Python's own may take for ever.

RE2 reads each byte once, whatever the expression: 2 ns a byte usually, at most 20 us a byte for the
expressions that are allowed. Very long values, and values with very many matches, count as one match.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import re2

MAX_VALUE_BYTES = 64 * 1024
"""A longer value is not searched: it counts as one match from end to end."""
MAX_MATCHES = 1000
"""A value with more counts as one match from end to end: finding each match costs 4 us."""
MAX_INSTRUCTIONS = 4000
"""The limit for a compiled expression. RE2 itself allows more, which costs 20 us a byte."""

# `[^` is not an anchor. Mistaking other text for an anchor only costs time.
_anchors = re.compile(r"(?<!\[)\^|\$|\\[Az]").search
_SEPARATOR = "\n"


class PatternError(ValueError):
    """The text cannot be used as a regular expression; the message says why."""


class Patterns:
    """Several expressions that are searched for together."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [compile_pattern(pattern) for pattern in patterns]
        self._any = _joined(patterns) or self._patterns
        # Spans have many short values: one search of all together costs a tenth of a search of each.
        self._take_together = not any(map(_anchors, patterns))

    def find_in(self, texts: Sequence[str]) -> list[int]:
        """Return the indexes of all texts in which a pattern may match: perhaps too many, never too few."""
        joined = _SEPARATOR.join(texts).encode()
        if len(joined) > MAX_VALUE_BYTES or not self._take_together:
            return [index for index, text in enumerate(texts) if self._may_match(text.encode())]
        found: set[int] = set()
        for pattern in self._any:
            if pattern.search(joined) is not None:
                found.update(_places(pattern, joined, texts))
        return sorted(found)

    def _may_match(self, value: bytes) -> bool:
        return len(value) > MAX_VALUE_BYTES or any(pattern.search(value) for pattern in self._any)

    def replace(self, value: bytes, replacement: Callable[[bytes], bytes]) -> bytes:
        """Replace everything that an expression matches; overlapping matches become one."""
        if len(value) > MAX_VALUE_BYTES:
            return replacement(value)
        matched: list[tuple[int, int]] = []
        for pattern in self._patterns:
            for match in pattern.finditer(value):
                if match.end() > match.start():
                    matched.append(match.span())
                    if len(matched) > MAX_MATCHES:
                        return replacement(value)
        kept_to, parts = 0, []
        for start, end in _merged(matched):
            parts += [value[kept_to:start], replacement(value[start:end])]
            kept_to = end
        return b"".join([*parts, value[kept_to:]])


def compile_pattern(pattern: str) -> re2._Regexp:
    """Compile an expression for UTF-8 bytes. Raises PatternError."""
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(pattern, options)
    except re2.error as error:
        (reason,) = error.args
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise PatternError(f"RE2 does not accept it: {text}") from error
    if compiled.programsize > MAX_INSTRUCTIONS:
        raise PatternError(
            f"it compiles to {compiled.programsize} instructions, and the limit is {MAX_INSTRUCTIONS}; "
            "repeat less or use smaller classes"
        )
    return compiled


def _joined(patterns: Sequence[str]) -> list[re2._Regexp] | None:
    """Join all expressions into one; None if that would change their meaning."""
    if any(r"\Q" in pattern for pattern in patterns):
        return None  # it quotes to the end of an expression, which would be the end of all
    try:
        return [compile_pattern("|".join(f"(?:{pattern})" for pattern in patterns))]
    except PatternError:
        return None


def _places(pattern: re2._Regexp, joined: bytes, texts: Sequence[str]) -> Iterator[int]:
    """Yield the indexes of texts in which a match starts: no pattern matches in the texts between."""
    end = 0
    match = pattern.search(joined)
    for place, text in enumerate(texts):
        if match is None:
            return
        end += len(text.encode())
        if match.start() <= end:
            yield place
            match = pattern.search(joined, end + 1)
        end += len(_SEPARATOR)


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
