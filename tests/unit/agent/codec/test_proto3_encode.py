"""kaspan.agent.codec.proto3_encode: JSON v2 as Zipkin's proto3, and nothing lost on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from kaspan.agent.codec.proto3_decode import proto3_batches
from kaspan.agent.codec.proto3_encode import encode
from support.span_strategies import SPANS, written


def read_back(encoded: bytes) -> list[dict[str, Any]]:
    """Read proto3 as the agent's receiver does, which reads as Zipkin does."""
    batches = proto3_batches(encoded, 1 << 30)
    return [span for batch in batches for span in json.loads(b"[" + batch.body + b"]")]


def as_zipkin_sees(span: dict[str, Any]) -> dict[str, Any]:
    """What Zipkin makes of a JSON span: ids of full length, and nothing that says nothing."""
    seen = dict(span)
    seen["traceId"] = span["traceId"].rjust(16 if len(span["traceId"]) <= 16 else 32, "0")
    seen |= {name: span[name].rjust(16, "0") for name in ("id", "parentId") if span.get(name)}
    seen |= {name: int(span[name]) for name in ("timestamp", "duration") if span.get(name) is not None}
    seen["tags"] = {name: str(value) for name, value in (span.get("tags") or {}).items()}
    for name in ("localEndpoint", "remoteEndpoint"):
        seen[name] = {key: value for key, value in (span.get(name) or {}).items() if value}
    known = {name for name in seen if name != "unknown"}
    return {name: seen[name] for name in known if seen[name]}


FULL = {
    "traceId": "5af7183fb1d4cf5f5af7183fb1d4cf5f",
    "parentId": "1",
    "id": "352bff9a74ca9ad2",
    "kind": "CONSUMER",
    "name": "process bestellungen-größer",
    "timestamp": 1556604172355737,
    "duration": 2**63 - 1,
    "localEndpoint": {"serviceName": "orders", "ipv4": "10.0.0.1", "ipv6": "2001:db8::1", "port": 65535},
    "remoteEndpoint": {"serviceName": "kafka"},
    "annotations": [
        {"timestamp": 1556604172355738, "value": "kafka.enqueued"},
        {"timestamp": 1, "value": "x" * 300},
    ],
    "tags": {"kafka.topic": "orders", "error": "", "text": "a \u2028 \x01 \U0001f600"},
    "debug": True,
    "shared": True,
}


def test_every_field_is_kept() -> None:
    """All that a span can say comes back from proto3."""
    encoded = encode(written(FULL) + b",\n" + written({"traceId": "a", "id": "b"}))
    assert encoded is not None
    expected = FULL | {"parentId": "0000000000000001"}
    assert read_back(encoded) == [expected, {"traceId": "0" * 15 + "a", "id": "0" * 15 + "b"}]


@given(SPANS)
def test_any_span_comes_back_as_zipkin_would_see_it(span: dict[str, Any]) -> None:
    """Whatever has a place in proto3 is the same there; what has none is sent as JSON instead."""
    encoded = encode(written(span))
    if encoded is not None:
        assert read_back(encoded) == [as_zipkin_sees(span)]


@pytest.mark.parametrize(
    "change",
    [
        {"traceId": "0"},
        {"id": "0000"},
        {"id": "XYZ"},
        {"id": "1" * 17},
        {"kind": "OTHER"},
        {"timestamp": 2**63},
        {"duration": 2**63},
        {"tags": {"": "x"}},
        {"tags": {"x": None}},
        {"annotations": [{"timestamp": 0, "value": "x"}]},
        {"annotations": [{"timestamp": 1, "value": ""}]},
        {"localEndpoint": {"ipv6": "::a00:1"}},
    ],
)
def test_span_that_proto3_cannot_say_is_not_encoded(change: dict[str, Any]) -> None:
    """Valid as JSON or not, it must be Zipkin that decides."""
    assert encode(written({"traceId": "1", "id": "2"} | change)) is None


@pytest.mark.parametrize("spans", [b"{garbage", b"[" * 100_000, b'{"traceId":"\xff","id":"1"}', b"1"])
def test_bytes_that_are_no_span_are_not_encoded(spans: bytes) -> None:
    """Garbage is for Zipkin to refuse, so that it becomes a dead letter."""
    assert encode(spans) is None


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({"ipv6": "::ffff:10.0.0.1"}, {"ipv4": "10.0.0.1"}),
        ({"ipv6": "::10.0.0.1"}, {"ipv4": "10.0.0.1"}),
        ({"ipv6": "::ffff:a00:1"}, {"ipv6": "::ffff:0a00:0001"}),
        ({"ipv6": "::1"}, {"ipv6": "::1"}),
        ({"ipv4": "2001:db8::1"}, {"ipv6": "2001:db8::1"}),
        ({"ipv4": "localhost", "serviceName": "a"}, {"serviceName": "a"}),
        ({"ipv6": "::1%eth0", "port": 1}, {"port": 1}),
        ({"ipv4": "", "port": -1}, None),
    ],
)
def test_addresses_are_read_as_zipkin_reads_them(
    endpoint: dict[str, Any], expected: dict[str, Any] | None
) -> None:
    """Either field may hold either kind of address; other text is left out, as Zipkin does."""
    encoded = encode(written({"traceId": "1", "id": "2", "localEndpoint": endpoint}))
    assert encoded is not None
    assert read_back(encoded)[0].get("localEndpoint") == expected
