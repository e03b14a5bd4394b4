"""A search for traces, and whether a trace matches it.

Source: QueryRequest of Zipkin 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, Protocol

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
        test = TraceTest(self)
        test.add(spans)
        return test.is_met


class TraceTest:
    """Tests one trace, whose spans may come in portions."""

    def __init__(self, request: QueryRequest) -> None:
        self._request = request
        self._timestamp_us = 0
        self._has_root = False
        self._open = _conditions(request)

    def add(self, spans: Iterable[Span]) -> None:
        """Look at more spans of the trace."""
        service = self._request.service_name
        for span in spans:
            self._note_time(span)
            if self._open and (service is None or local_service(span) == service):
                self._open = [is_met for is_met in self._open if not is_met(span)]

    def _note_time(self, span: Span) -> None:
        """A trace's time is that of the first span without a parent, else the earliest."""
        timestamp_us = span.timestamp
        if not timestamp_us or self._has_root:
            return
        self._has_root = span.parent_id is None
        if self._has_root or not self._timestamp_us or timestamp_us < self._timestamp_us:
            self._timestamp_us = timestamp_us

    @property
    def is_met(self) -> bool:
        """Whether the spans until now match."""
        is_in_time = self._request.first_us <= self._timestamp_us <= self._request.last_us
        return bool(self._timestamp_us) and is_in_time and not self._open


class HasDuration(Protocol):
    """A span, as far as its duration is tested."""

    duration: int | None


_Condition = Callable[[Span], bool]


def _conditions(request: QueryRequest) -> list[_Condition]:
    """Return what some span must meet, each of them, among those of the service."""
    found: list[_Condition] = []
    if request.service_name is not None:
        found.append(lambda _: True)
    if request.remote_service_name is not None:
        found.append(lambda span: remote_service(span) == request.remote_service_name)
    if request.span_name is not None:
        found.append(lambda span: span.name == request.span_name)
    if request.min_duration_us is not None:
        found.append(partial(has_duration, request))
    found += [_has(key, value) for key, value in request.annotation_query.items()]
    return found


def _has(key: str, value: str) -> _Condition:
    return lambda span: has_annotation(span, key, value)


def has_duration(request: QueryRequest, span: HasDuration) -> bool:
    """Whether a span lasts as long as a request asks for."""
    duration_us = span.duration or 0
    is_short_enough = request.max_duration_us is None or duration_us <= request.max_duration_us
    return duration_us >= (request.min_duration_us or 0) and is_short_enough


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


def local_service(span: Span) -> str | None:
    """Return the name of the service that recorded a span, None if it has none."""
    return span.local_endpoint.service_name if span.local_endpoint else None


def remote_service(span: Span) -> str | None:
    """Return the name of the service on the other side of a span, None if it has none."""
    return span.remote_endpoint.service_name if span.remote_endpoint else None
