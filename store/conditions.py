"""What a search asks for, one condition at a time: which blocks may have it, and which spans there do.

Every trace that matches has a span that meets each condition, so a search walks the blocks of one of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kaspan.store.block_cache import Terms, Times
from kaspan.store.partition_reader import BlockRow, PartitionReader
from kaspan.store.query_request import QueryRequest
from kaspan.store.schema import duration_bit
from kaspan.store.terms import name_term, remote_term, tag_term, word_term
from kaspan.wire.span import Span

_ALL_DURATIONS = (1 << 63) - 1

Meets = Callable[[Terms], bool]


def service_of(span: Times | Span) -> str | None:
    """Return the service that recorded a span, in lower case."""
    endpoint = span.local_endpoint
    return endpoint.service_name.lower() if endpoint and endpoint.service_name else None


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, for the spans of `service` if that is not None.

    `term` is what the index has of it; without one, `durations` is the mask of durations to look for. `meets`
    says whether a span of the service meets it, given the fields `Terms` if `term` is set, else `Times`.
    """

    service: str | None
    durations: int
    term: bytes | None
    meets: Meets

    def blocks(self, partition: PartitionReader) -> list[BlockRow]:
        """Return the blocks of a partition that may have a span that meets the condition."""
        service = self.service
        rows = partition.blocks() if service is None else partition.blocks_of_service(service)
        if self.term is not None:
            with_term = partition.blocks_of_term(self.term, service) if rows else set()
            return [row for row in rows if row.block in with_term]
        if self.durations != _ALL_DURATIONS:
            return [row for row in rows if row.durations & self.durations]
        return rows

    def is_met(self, span: Terms) -> bool:
        """Whether a span meets the condition."""
        return (self.service is None or service_of(span) == self.service) and self.meets(span)


def conditions_of(request: QueryRequest) -> list[Condition]:
    """Return all conditions of a search but that of time; there is at least one."""
    service = request.service_name
    found = []
    if request.span_name is not None:
        found.append(
            Condition(service, _ALL_DURATIONS, name_term(request.span_name), _named(request.span_name))
        )
    if request.remote_service_name is not None:
        name = request.remote_service_name
        found.append(Condition(service, _ALL_DURATIONS, remote_term(name), _sent_to(name)))
    for key, value in request.annotation_query.items():
        term = tag_term(key, value) if value else word_term(key)
        found.append(Condition(service, _ALL_DURATIONS, term, _tagged(key, value)))
    if request.min_duration_us is not None:
        found.append(_duration(service, request.min_duration_us, request.max_duration_us))
    return found or [Condition(service, _ALL_DURATIONS, None, lambda _: True)]


def _duration(service: str | None, min_us: int, max_us: int | None) -> Condition:
    least = duration_bit(min_us)
    most = duration_bit(max_us) if max_us is not None else 1 << 62
    durations = (most << 1) - least  # all bits from the one to the other

    def meets(span: Times) -> bool:
        duration_us = span.duration or 0
        return duration_us >= min_us and (max_us is None or duration_us <= max_us)

    return Condition(service, durations, None, meets)


def _named(name: str) -> Meets:
    return lambda span: span.name is not None and span.name.lower() == name


def _sent_to(service: str) -> Meets:
    def meets(span: Terms) -> bool:
        endpoint = span.remote_endpoint
        return endpoint is not None and (endpoint.service_name or "").lower() == service

    return meets


def _tagged(key: str, value: str) -> Meets:
    if value:
        return lambda span: span.tags.get(key) == value
    return lambda span: key in span.tags or any(annotation.value == key for annotation in span.annotations)
