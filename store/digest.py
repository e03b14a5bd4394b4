"""What the index says about the spans of one service in one block."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kaspan.store.indexed_span import IndexedSpan
from kaspan.store.lenient_json import read_span
from kaspan.store.schema import MAX_TIMESTAMP_US, duration_bit
from kaspan.store.terms import name_term, remote_term, tag_term, word_term

_decode_tags = msgspec.json.Decoder(dict[str, str] | None).decode
_COLON, _COMMA = b'":"', b'","'
_KEY = word_term("")


class SpacedTagsError(Exception):
    """The tags of a span have blanks between their tokens, so they cannot be split as bytes."""


class Digest:
    """The times, durations, names and terms of spans; names are in lower case.

    `min_us` and `max_us` are None if no span has a timestamp. Tags are kept as their JSON, since to decode
    them takes three times as long as to split it; with `decodes_tags` they are decoded nevertheless.
    """

    __slots__ = (
        "_decodes_tags",
        "_json_tags",
        "_words",
        "durations",
        "max_us",
        "min_us",
        "names",
        "remote_names",
        "spans",
        "tags",
    )

    def __init__(self, decodes_tags: bool = False) -> None:
        self.spans = self.durations = 0
        self.min_us: int | None = None
        self.max_us: int | None = None
        self.names: set[str] = set()
        self.remote_names: set[str] = set()
        self.tags: set[tuple[str, str]] = set()
        self._decodes_tags = decodes_tags
        self._json_tags: set[bytes] = set()
        self._words: set[str] = set()

    def add(self, spans: Sequence[IndexedSpan]) -> None:
        """Add spans of this service."""
        self.spans += len(spans)
        self._add_times(spans)
        for length in {span.duration.bit_length() for span in spans if span.duration and span.duration > 0}:
            self.durations |= duration_bit(1 << length >> 1)
        self.names |= {name.lower() for name in {span.name for span in spans} if name}
        remotes = {span.remote_endpoint.service_name for span in spans if span.remote_endpoint}
        self.remote_names |= {name.lower() for name in remotes if name}
        self._words |= {item.value for span in spans if span.annotations for item in span.annotations}
        if self._decodes_tags:
            self._add_decoded([bytes(span.tags) for span in spans])
            return
        # Without a backslash, _COMMA is between two tags, or the tags are spaced: `terms` finds that out.
        text = _COMMA.join([bytes(span.tags)[2:-2] for span in spans])
        if b"\\" in text:
            tags = [bytes(span.tags) for span in spans]
            self._add_decoded([each for each in tags if b"\\" in each])
            text = _COMMA.join([each[2:-2] for each in tags if b"\\" not in each])
        self._json_tags.update(text.split(_COMMA))

    def _add_times(self, spans: Sequence[IndexedSpan]) -> None:
        times_us = [span.timestamp for span in spans if span.timestamp]
        if times_us and not (min(times_us) > 0 and max(times_us) <= MAX_TIMESTAMP_US):
            times_us = [time_us for time_us in times_us if 0 < time_us <= MAX_TIMESTAMP_US]
        if times_us:
            self.min_us = min(times_us) if self.min_us is None else min(self.min_us, *times_us)
            self.max_us = max(times_us) if self.max_us is None else max(self.max_us, *times_us)

    def _add_decoded(self, tags: Sequence[bytes]) -> None:
        for text in tags:
            try:
                decoded = _decode_tags(text) or {}
            except msgspec.MsgspecError:
                decoded = _read_tags(text)
            self.tags.update(decoded.items())
            self._words.update(decoded)

    def terms(self) -> list[bytes]:
        """Return the terms of the spans. Raises SpacedTagsError if tags cannot be split as they were."""
        self._json_tags.discard(b"")
        keys = {tag.partition(_COLON)[0] for tag in self._json_tags}
        # Each has a colon between two quotation marks, else it is its own key, and no other quotation mark.
        quotes = b"".join(self._json_tags).count(b'"')
        if quotes != 2 * len(self._json_tags) or not keys.isdisjoint(self._json_tags):
            raise SpacedTagsError
        terms = [*self._json_tags, *[_KEY + key for key in keys]]
        terms += [tag_term(key, value) for key, value in self.tags]
        terms += map(word_term, self._words)
        terms += map(name_term, self.names)
        terms += map(remote_term, self.remote_names)
        return terms


def _read_tags(text: bytes) -> dict[str, str]:
    """Read tags whose values have types that only Zipkin's reader accepts; none if it does not either."""
    try:
        return read_span(b'{"traceId":"1","id":"1","tags":%b}' % text).tags
    except ValueError:
        return {}
