"""What came out of the rings, by the service that wrote it: plain numbers, read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kaspan.agent.receivers.ring_file import RingFile
from kaspan.agent.status import ServiceStatus

MAX_SERVICES = 200
OTHER = "(other)"
"""Stands for every service that comes after so many: their names are text from files, and have no end."""


class RingCounters:
    """Follows the counters of one ring for its service's."""

    def __init__(self, service: ServiceStatus) -> None:
        self._service = service
        self._dropped_spans = self._suppressed_errors = 0
        self._read_spans = 0

    def polled(self, ring: RingFile) -> None:
        """Take over what the ring's writer has counted. What only shrinks was never a count."""
        dropped, suppressed = ring.dropped_spans, ring.suppressed_errors
        self._service.dropped_spans += max(0, dropped - self._dropped_spans)
        self._service.suppressed_errors += max(0, suppressed - self._suppressed_errors)
        self._dropped_spans, self._suppressed_errors = dropped, suppressed

    def read(self, spans: int) -> None:
        """Note spans that were read, and are counted once they are stored."""
        self._read_spans += spans

    def stored(self) -> None:
        """Count what was read."""
        self._service.accepted_spans += self._read_spans
        self._read_spans = 0

    def left(self) -> None:
        """Forget what was read: it stays in the ring."""
        self._read_spans = 0


class Services:
    """The services that rings have named."""

    def __init__(self) -> None:
        self._by_name: dict[str, ServiceStatus] = {}

    def counters_of(self, ring: RingFile) -> RingCounters:
        """Begin to count for a ring."""
        name = ring.service
        if name not in self._by_name and len(self._by_name) >= MAX_SERVICES:
            name = OTHER
        return RingCounters(self._by_name.setdefault(name, ServiceStatus(name)))

    @property
    def accepted_spans(self) -> int:
        """How many spans of all rings are stored, or were dropped by a processor."""
        return sum(service.accepted_spans for service in list(self._by_name.values()))

    def observe(self, rings: Iterable[RingFile]) -> list[ServiceStatus]:
        """Return all services as they are now with these rings. Any thread may ask."""
        observed = {name: msgspec.structs.replace(service) for name, service in list(self._by_name.items())}
        for ring in rings:
            service = observed.get(ring.service) or observed.get(OTHER)
            if service is not None:
                service.rings += 1
                service.unread_bytes += ring.unread_bytes
                service.fill = max(service.fill, ring.fill)
        return sorted(observed.values(), key=lambda service: service.name)
