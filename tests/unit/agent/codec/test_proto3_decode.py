"""kaspan.agent.codec.proto3_decode: what Zipkin takes as proto3 becomes JSON v2 that says the same."""

from __future__ import annotations

import ipaddress
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from py_zipkin.encoding.protobuf import zipkin_pb2

from kaspan.agent.batch import split
from kaspan.agent.codec.json_lenient import InvalidSpansError
from kaspan.agent.codec.proto3_decode import proto3_batches
from support.span_bodies import (
    BODIES,
    PROTO3,
    SPAN_ID,
    TRACE_ID,
    Body,
    field,
    mutated,
    number,
    proto_span,
    varint,
)

ROW_BYTES = 500_000
PROTO_BODIES = {
    name: body for name, body in BODIES.items() if body.content_type == PROTO3 and not body.content_encoding
}
KINDS = ("CLIENT", "SERVER", "PRODUCER", "CONSUMER")

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
endpoints = st.fixed_dictionaries(
    {},
    optional={
        "serviceName": texts,
        "ipv4": st.ip_addresses(v=4).map(str),
        "ipv6": st.integers(1 << 64, (1 << 128) - 1).map(lambda n: str(ipaddress.IPv6Address(n))),
        "port": st.integers(1, 65535),
    },
).filter(bool)
spans = st.fixed_dictionaries(
    {
        "traceId": st.integers(1, (1 << 128) - 1).map("{:032x}".format)
        | st.integers(1, (1 << 64) - 1).map("{:016x}".format),
        "id": st.integers(1, (1 << 64) - 1).map("{:016x}".format),
    },
    optional={
        "parentId": st.integers(1, (1 << 64) - 1).map("{:016x}".format),
        "kind": st.sampled_from(KINDS),
        "name": texts,
        "timestamp": st.integers(1, (1 << 63) - 1),
        "duration": st.integers(1, (1 << 63) - 1),
        "localEndpoint": endpoints,
        "remoteEndpoint": endpoints,
        "annotations": st.lists(
            st.fixed_dictionaries({"timestamp": st.integers(1, (1 << 63) - 1), "value": texts}), min_size=1
        ),
        "tags": st.dictionaries(texts, st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
        "debug": st.just(True),
        "shared": st.just(True),
    },
)


def encode(spans: list[dict[str, Any]]) -> bytes:
    """Encode spans with Google's protobuf and Zipkin's own zipkin.proto."""
    return bytes(zipkin_pb2.ListOfSpans(spans=map(_message, spans)).SerializeToString())


def _message(span: dict[str, Any]) -> Any:
    message = zipkin_pb2.Span(
        trace_id=bytes.fromhex(span["traceId"]),
        parent_id=bytes.fromhex(span.get("parentId", "")),
        id=bytes.fromhex(span["id"]),
        kind=span.get("kind", "SPAN_KIND_UNSPECIFIED"),
        name=span.get("name", ""),
        timestamp=span.get("timestamp", 0),
        duration=span.get("duration", 0),
        annotations=[zipkin_pb2.Annotation(**annotation) for annotation in span.get("annotations", ())],
        tags=span.get("tags", {}),
        debug=span.get("debug", False),
        shared=span.get("shared", False),
    )
    for name, at in (("localEndpoint", message.local_endpoint), ("remoteEndpoint", message.remote_endpoint)):
        endpoint = span.get(name, {})
        at.service_name, at.port = endpoint.get("serviceName", ""), endpoint.get("port", 0)
        at.ipv4, at.ipv6 = (_packed(endpoint.get(version)) for version in ("ipv4", "ipv6"))
    return message


def _packed(address: str | None) -> bytes:
    return ipaddress.ip_address(address).packed if address else b""


def taken(body: bytes, row_bytes: int = ROW_BYTES) -> list[dict[str, Any]]:
    return [json.loads(span) for batch in proto3_batches(body, row_bytes) for span in split(batch.body)]


@given(st.lists(spans))
def test_spans_of_zipkins_own_proto_keep_every_field(spans: list[dict[str, Any]]) -> None:
    """What is encoded by Google's protobuf with zipkin.proto comes out as the same spans in JSON."""
    assert taken(encode(spans), 300) == spans


@pytest.mark.parametrize("body", PROTO_BODIES.values(), ids=PROTO_BODIES.keys())
def test_body_is_taken_where_zipkin_takes_it(body: Body) -> None:
    """What Zipkin answers 202 is taken, and what it refuses is refused with a reason."""
    if body.accepted:
        taken(body.content)
    else:
        with pytest.raises(InvalidSpansError, match=r"proto3|PROTO3"):
            taken(body.content)


@pytest.mark.parametrize(
    "unknown",
    [number(99, 7), field(99, b"abc"), varint(99 << 3 | 1) + bytes(8), varint(99 << 3 | 5) + bytes(4)],
)
def test_field_nobody_knows_is_skipped(unknown: bytes) -> None:
    """A later version of zipkin.proto may have more fields; the others are read."""
    assert taken(proto_span(unknown, field(5, b"get"), field(8, unknown + field(1, b"a")))) == [
        {"traceId": TRACE_ID, "id": SPAN_ID, "name": "get", "localEndpoint": {"serviceName": "a"}}
    ]


@pytest.mark.parametrize(
    ("packed", "address"),
    [
        (bytes(12) + bytes([1, 2, 3, 4]), {"ipv4": "1.2.3.4"}),
        (bytes(10) + b"\xff\xff" + bytes([1, 2, 3, 4]), {"ipv6": "::ffff:0102:0304"}),
        (bytes(15) + b"\1", {"ipv6": "::1"}),
        (bytes.fromhex("20010db8") + bytes(12), {"ipv6": "2001:db8::"}),
    ],
)
def test_addresses_are_what_zipkin_would_store(packed: bytes, address: dict[str, str]) -> None:
    """An IPv4 address inside an IPv6 one counts as Zipkin counts it, once it reads the JSON."""
    (span,) = taken(proto_span(field(8, field(3, packed))))
    assert span["localEndpoint"] == address


def test_large_body_becomes_rows_of_limited_size() -> None:
    """A body larger than a message becomes several rows, with all its spans in their order."""
    body = b"".join(proto_span(field(5, b"%d" % index)) for index in range(50))
    batches = list(proto3_batches(body, 1000))
    assert len(batches) > 1
    assert all(len(batch.body) <= 1000 for batch in batches)
    assert [span["name"] for span in taken(body, 1000)] == [str(index) for index in range(50)]


def test_refusal_names_the_span() -> None:
    """The answer names the span that is wrong."""
    with pytest.raises(InvalidSpansError, match=r"id is all zeros reading List<Span> from proto3 at span 2"):
        taken(proto_span() * 2 + proto_span(span_id="00" * 8))


@given(st.binary())
def test_bytes_never_raise_anything_else(raw: bytes) -> None:
    """Any bytes are taken or refused."""
    for body in (raw, b"\n" + raw, proto_span(raw)):
        _take_or_refuse(body)


@given(st.sampled_from(sorted(PROTO_BODIES)), st.randoms(use_true_random=False))
def test_mutated_bodies_never_raise_anything_else(name: str, rng: random.Random) -> None:
    """What is taken of a damaged body can be read by everybody."""
    _take_or_refuse(mutated(PROTO_BODIES[name].content, rng))


def _take_or_refuse(body: bytes) -> None:
    try:
        batches = list(proto3_batches(body, 64))
    except InvalidSpansError:
        return
    for batch in batches:
        assert batch.spans == len(split(batch.body)) > 0


@pytest.mark.parametrize(
    "element", [b"\x52\0", field(10, b"\x09" + b"1" * 8 + b"\x12\1x"), field(11, field(1, b"a"))]
)
def test_large_span_has_a_limit_of_fields(element: bytes) -> None:
    """A span over 1 MiB of endlessly many annotations or tags is refused before it is read."""
    with pytest.raises(InvalidSpansError, match="166666 fields") as refused:
        list(proto3_batches(proto_span(element * 600_000), ROW_BYTES))
    assert refused.value.status == 413


def test_large_span_is_taken() -> None:
    """A span may be as large as a body if it is text that makes it so."""
    (batch,) = proto3_batches(proto_span(field(5, b"x" * 3_000_000)), ROW_BYTES)
    assert len(json.loads(batch.body)["name"]) == 3_000_000


def test_json_of_a_body_has_the_limit_of_a_body() -> None:
    """What becomes six times as large when it is written as JSON is refused like a body of that size."""
    body = proto_span(field(5, b"\0" * 1000)) * 10
    assert sum(batch.spans for batch in proto3_batches(body, ROW_BYTES, 65_000)) == 10
    with pytest.raises(InvalidSpansError, match="as JSON") as refused:
        list(proto3_batches(body, ROW_BYTES, 50_000))
    assert refused.value.status == 413
