"""What came from the rings, counted by the service that wrote it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kaspan.agent.receivers.ring_file import RingFile
from kaspan.agent.status import ServiceStatus

MAX_SERVICES = 200
OTHER = "(other)"
"""Counts all services after the first MAX_SERVICES: names come from files, and could be endlessly many."""


class RingCounters:
    """Adds the counters of one ring to those of its service."""

    def __init__(self, service: ServiceStatus) -> None:
        self._service = service
        self._dropped_spans = self._suppressed_errors = 0
        self._polled_records = self._without_length = 0
        self._read_spans = 0

    def polled(self, ring: RingFile) -> None:
        """Add what the ring's writer has counted since the last poll. A counter that shrinks is ignored."""
        dropped, suppressed = ring.dropped_spans, ring.suppressed_errors
        self._service.dropped_spans += max(0, dropped - self._dropped_spans)
        self._service.suppressed_errors += max(0, suppressed - self._suppressed_errors)
        self._dropped_spans, self._suppressed_errors = dropped, suppressed
        records, without_length = ring.polled_records, ring.without_length
        self._service.polled_records += max(0, records - self._polled_records)
        self._service.records_without_length += max(0, without_length - self._without_length)
        self._polled_records, self._without_length = records, without_length

    def read(self, spans: int) -> None:
        """Note spans that were read; `stored` counts them."""
        self._read_spans += spans

    def stored(self) -> None:
        """Count the spans that were read as accepted."""
        self._service.accepted_spans += self._read_spans
        self._read_spans = 0

    def rolled_back(self) -> None:
        """Forget the spans that were read: they stay in the ring."""
        self._read_spans = 0


class Services:
    """The services that rings name, with their counters."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServiceStatus] = {}

    def counters_of(self, ring: RingFile) -> RingCounters:
        """Return counters for a new ring."""
        name = ring.service
        if name not in self._by_name and len(self._by_name) >= MAX_SERVICES:
            name = OTHER
        return RingCounters(self._by_name.setdefault(name, ServiceStatus(name)))

    @property
    def accepted_spans(self) -> int:
        """How many spans of all rings were stored, or dropped by a processor."""
        return sum(service.accepted_spans for service in list(self._by_name.values()))

    def observe(self, rings: Iterable[RingFile]) -> list[ServiceStatus]:
        """Return all services as they are now, with these rings. Any thread may call it."""
        observed = {name: msgspec.structs.replace(service) for name, service in list(self._by_name.items())}
        for ring in rings:
            service = observed.get(ring.service) or observed.get(OTHER)
            if service is not None:
                service.rings += 1
                service.unread_bytes += ring.unread_bytes
                service.fill = max(service.fill, ring.fill)
        return sorted(observed.values(), key=lambda service: service.name)
