"""A search for traces, and whether a trace matches it.

Source: QueryRequest of Zipkin 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from kaspan.wire.span import Span

MAX_ANNOTATIONS = 100
"""How many parts an annotation query is split into; the last one has the rest."""


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """What to search for; absent conditions are None or empty.

    `end_ts_ms` and `lookback_ms` bound the time of a trace, `limit` the number of traces. Durations are in
    microseconds. In `annotation_query` an empty value asks for an annotation with the key's text or for a
    tag of that name, any other value for that tag. `order` is what comes first. Names must be in lower case.
    Raises ValueError with Zipkin's text for a value that Zipkin refuses.
    """

    end_ts_ms: int
    lookback_ms: int
    limit: int = 10
    service_name: str | None = None
    remote_service_name: str | None = None
    span_name: str | None = None
    annotation_query: Mapping[str, str] = field(default_factory=dict)
    min_duration_us: int | None = None
    max_duration_us: int | None = None
    order: Literal["newest", "longest"] = "newest"

    def __post_init__(self) -> None:
        for name, value in (("endTs", self.end_ts_ms), ("limit", self.limit), ("lookback", self.lookback_ms)):
            if value <= 0:
                raise ValueError(f"{name} <= 0")
        if self.min_duration_us is None:
            if self.max_duration_us is not None:
                raise ValueError("maxDuration is only valid with minDuration")
        elif self.min_duration_us <= 0:
            raise ValueError("minDuration <= 0")
        elif self.max_duration_us is not None and self.max_duration_us < self.min_duration_us:
            raise ValueError("maxDuration < minDuration")

    @property
    def first_us(self) -> int:
        """The earliest time of a trace that matches, in microseconds."""
        return (self.end_ts_ms - self.lookback_ms) * 1000

    @property
    def last_us(self) -> int:
        """The latest time of a trace that matches, in microseconds."""
        return self.end_ts_ms * 1000

    def matches(self, spans: Sequence[Span]) -> bool:
        """Whether a trace matches. Each condition may be met by another span.

        With a service name, the other conditions look only at that service's spans.
        """
        timestamp_us = trace_timestamp_us(spans)
        if not timestamp_us or not self.first_us <= timestamp_us <= self.last_us:
            return False
        service = self.service_name
        looked_at = spans if service is None else [span for span in spans if local_service(span) == service]
        return (
            (service is None or bool(looked_at))
            and (
                self.remote_service_name is None
                or any(remote_service(span) == self.remote_service_name for span in looked_at)
            )
            and (self.span_name is None or any(span.name == self.span_name for span in looked_at))
            and (self.min_duration_us is None or any(map(self._has_duration, looked_at)))
            and all(
                any(has_annotation(span, key, value) for span in looked_at)
                for key, value in self.annotation_query.items()
            )
        )

    def _has_duration(self, span: Span) -> bool:
        duration_us = span.duration or 0
        is_short_enough = self.max_duration_us is None or duration_us <= self.max_duration_us
        return duration_us >= (self.min_duration_us or 0) and is_short_enough


def parse_annotation_query(text: str) -> dict[str, str]:
    """Read an annotation query such as `error and kafka.topic=orders`. Any text is valid."""
    if not text:
        return {}
    found: dict[str, str] = {}
    for part in text.split(" and ", MAX_ANNOTATIONS - 1):
        key, equals, value = part.partition("=")
        if equals:
            found[key.strip()] = value.strip()
        else:
            found.setdefault(key.strip(), "")
    return found


def has_annotation(span: Span, key: str, value: str) -> bool:
    """Whether a span meets one condition of an annotation query."""
    if value:
        return span.tags.get(key) == value
    return key in span.tags or any(annotation.value == key for annotation in span.annotations)


def trace_timestamp_us(spans: Sequence[Span]) -> int:
    """Return the time of a trace: that of the first span without a parent, else the earliest; 0 for none."""
    earliest_us = 0
    for span in spans:
        timestamp_us = span.timestamp
        if not timestamp_us:
            continue
        if span.parent_id is None:
            return timestamp_us
        if not earliest_us or timestamp_us < earliest_us:
            earliest_us = timestamp_us
    return earliest_us


def local_service(span: Span) -> str | None:
    """Return the name of the service that recorded a span, None if it has none."""
    return span.local_endpoint.service_name if span.local_endpoint else None


def remote_service(span: Span) -> str | None:
    """Return the name of the service on the other side of a span, None if it has none."""
    return span.remote_endpoint.service_name if span.remote_endpoint else None
