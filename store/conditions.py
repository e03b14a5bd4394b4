"""What a search asks for, one condition at a time: which blocks may have it, and which spans there do.

Every trace that matches has a span that meets each condition, so a search walks the blocks of one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from kaspan.store.block_cache import Fields, Part, Times
from kaspan.store.partition_reader import BlockRow, PartitionReader
from kaspan.store.query_request import QueryRequest, has_duration
from kaspan.store.schema import duration_bit
from kaspan.store.terms import name_term, remote_term, tag_term, word_term
from kaspan.wire.span import Span

_ALL_DURATIONS = (1 << 63) - 1
RARE_DURATION_US = 100_000
"""Spans that last so long are few: to look for their duration is faster than to look for their service."""
_plain = re.compile(rb"[0-9A-Za-z_.-]+").findall  # what every encoder of JSON writes as it is

IsMet = Callable[[Any], bool]  # of Times or, with a term, Fields, or a whole span


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a search, for the spans of `service` if that is not None.

    `is_met` says whether a span of the service meets it. `term` is what the index has of it; without one,
    `durations` is the mask of durations to look for. `text` is in the JSON of each span that meets it, in any
    case if `ignore_case`. `pattern` is in it too, and is looked for in place of `text`.
    """

    service: str | None
    is_met: IsMet
    durations: int = _ALL_DURATIONS
    term: bytes | None = None
    text: str = ""
    ignore_case: bool = False
    pattern: re.Pattern[bytes] | None = None

    def blocks(self, partition: PartitionReader) -> list[BlockRow]:
        """Return the blocks of a partition that may have a span that meets the condition."""
        service = self.service
        if self.term is not None:
            with_term = partition.blocks_of_term(self.term, service)
            if service is None or not with_term:
                return partition.blocks_with_ids(with_term)
            return [row for row in partition.blocks_of_service(service) if row.block in with_term]
        rows = partition.blocks() if service is None else partition.blocks_of_service(service)
        if self.durations != _ALL_DURATIONS:
            return [row for row in rows if row.durations & self.durations]
        return rows

    def places(self, part: Part) -> Iterator[int]:
        """Yield the places of the spans that meet the condition."""
        for place in self._likely_places(part):
            span = part.times_at(place) if self.term is None else part.fields_at(place)
            if span and (self.service is None or service_of(span) == self.service) and self.is_met(span):
                yield place

    def _likely_places(self, part: Part) -> Iterable[int]:
        if self.pattern is not None:
            return part.with_pattern(self.pattern)
        words = _plain(self.text.encode("utf-8", "surrogatepass"))
        return part.with_text(max(words, key=len), self.ignore_case) if words else part.all_places()


def service_of(span: Times | Span) -> str | None:
    """Return the service that recorded a span, in lower case."""
    endpoint = span.local_endpoint
    return endpoint.service_name.lower() if endpoint and endpoint.service_name else None


def conditions_of(request: QueryRequest) -> list[Condition]:
    """Return all conditions of a search but that of time; there is at least one."""
    service, name, remote = request.service_name, request.span_name, request.remote_service_name
    found = []
    if name is not None:
        found.append(Condition(service, _named(name), term=name_term(name), text=name, ignore_case=True))
    if remote is not None:
        term = remote_term(remote)
        found.append(Condition(service, _sent_to(remote), term=term, text=remote, ignore_case=True))
    for key, value in request.annotation_query.items():
        term = tag_term(key, value) if value else word_term(key)
        found.append(Condition(service, partial(_has, key, value), term=term, text=value or key))
    if request.min_duration_us is not None:
        most = 1 << 62 if request.max_duration_us is None else duration_bit(request.max_duration_us)
        # All bits from the one to the other.
        durations = (most << 1) - duration_bit(request.min_duration_us)
        is_met = partial(has_duration, request)
        pattern = None
        if request.min_duration_us >= RARE_DURATION_US:
            pattern = _longer_than(len(str(request.min_duration_us)) - 1)
        text = service or ""
        found.append(Condition(service, is_met, durations, text=text, ignore_case=True, pattern=pattern))
    return found or [Condition(service, lambda _: True, text=service or "", ignore_case=True)]


def _longer_than(digits: int) -> re.Pattern[bytes]:
    """Return what finds durations but those that are plainly written with so many digits or fewer."""
    return re.compile(rb'"duration"\s*:\s*(?!"?[0-9]{1,%d}[\s",}])' % digits)


def _named(name: str) -> IsMet:
    return lambda span: span.name is not None and span.name.lower() == name


def _sent_to(service: str) -> IsMet:
    def is_met(span: Fields | Span) -> bool:
        endpoint = span.remote_endpoint
        return endpoint is not None and (endpoint.service_name or "").lower() == service

    return is_met


def _has(key: str, value: str, span: Fields | Span) -> bool:
    if value:
        return span.tags.get(key) == value
    return key in span.tags or any(annotation.value == key for annotation in span.annotations)
