"""The Zipkin v2 span as a typed structure, for code that reads a span's fields.

The agent's ring path forwards bytes and needs none of this. The field names are Zipkin's, so that a decoded
span encodes to the same JSON.

Source: zipkin2-api.yaml of the Zipkin API, version 2.
"""

from __future__ import annotations

import msgspec

SPANS_PATH = "/api/v2/spans"
"""The path of Zipkin's HTTP collector, to which a list of spans is posted."""


class Endpoint(msgspec.Struct, gc=False, omit_defaults=True, rename="camel"):
    """The network context of one side of a span."""

    service_name: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    port: int | None = None


class Annotation(msgspec.Struct, gc=False):
    """An event in a span's life; timestamp in microseconds since the epoch."""

    timestamp: int
    value: str


class Span(msgspec.Struct, omit_defaults=True, rename="camel"):
    """One Zipkin v2 span; timestamp and duration in microseconds."""

    trace_id: str
    id: str
    parent_id: str | None = None
    kind: str | None = None
    name: str | None = None
    timestamp: int | None = None
    duration: int | None = None
    local_endpoint: Endpoint | None = None
    remote_endpoint: Endpoint | None = None
    annotations: list[Annotation] = []
    tags: dict[str, str] = {}
    debug: bool | None = None
    shared: bool | None = None
