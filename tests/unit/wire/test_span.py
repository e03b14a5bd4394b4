"""The typed span has Zipkin's fields: a decoded span encodes to the same JSON."""

from __future__ import annotations

import json

import msgspec

from kaspan.wire.span import Span

EVERYTHING = {
    "traceId": "463ac35c9f6413ad48485a3953bb6124",
    "id": "a2fb4a1d1a96d312",
    "parentId": "0020000000000001",
    "kind": "CONSUMER",
    "name": "process orders",
    "timestamp": 1732459200000000,
    "duration": 207000,
    "localEndpoint": {"serviceName": "shipping", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "port": 9411},
    "remoteEndpoint": {"serviceName": "kafka"},
    "annotations": [{"timestamp": 1732459200000001, "value": "kafka.enqueued"}],
    "tags": {"kafka.topic": "orders", "error": ""},
    "debug": True,
    "shared": True,
}


def test_span_with_every_field_of_zipkins_keeps_them_all() -> None:
    """Each field of Zipkin's API, version 2, survives decoding and encoding."""
    span = msgspec.json.decode(json.dumps(EVERYTHING).encode(), type=Span)

    assert json.loads(msgspec.json.encode(span)) == EVERYTHING


def test_span_with_only_its_identifiers_stays_as_small() -> None:
    """What a span does not say is not written either."""
    smallest = {"traceId": "463ac35c9f6413ad", "id": "a2fb4a1d1a96d312"}

    span = msgspec.json.decode(json.dumps(smallest).encode(), type=Span)

    assert json.loads(msgspec.json.encode(span)) == smallest
