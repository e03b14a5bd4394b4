"""The normal form of a span is that of Zipkin's Span.Builder."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given

from kaspan.store.ip_address import read_ip
from kaspan.store.lenient_json import read_span
from kaspan.store.normal_form import decode_spans, normalize, normalize_trace_id, sorted_texts
from kaspan.wire.span import Annotation, Endpoint, Span
from support.span_strategies import SPANS, written


def normal(**members: Any) -> Span:
    (span,) = decode_spans(json.dumps({"traceId": "a" * 16, "id": "b" * 16, **members}).encode())
    return span


@pytest.mark.parametrize(
    ("written_as", "normal_form"),
    [
        ("1", "0000000000000001"),
        ("f" * 17, "0" * 15 + "f" * 17),
        ("0" * 16 + "c" * 16, "c" * 16),
        ("0" * 15 + "1" + "c" * 16, "0" * 15 + "1" + "c" * 16),
    ],
)
def test_trace_ids_have_16_or_32_digits(written_as: str, normal_form: str) -> None:
    """A trace id has 16 digits, or 32 if one of the first 16 of 32 is not zero."""
    assert normal(traceId=written_as).trace_id == normal_form
    assert normalize_trace_id(written_as.upper()) == normal_form


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), ("0" * 33, "length > 32"), ("0", "all zeros"), ("xyz", "lower-hex"), ("1 ", "lower-hex")],
)
def test_what_is_not_a_trace_id_is_refused_with_zipkins_text(text: str, reason: str) -> None:
    """A text that is not a trace id raises ValueError, which says why."""
    with pytest.raises(ValueError, match=reason):
        normalize_trace_id(text)


def test_ids_are_padded_and_a_span_is_not_its_own_parent() -> None:
    """Ids have 16 digits; a parent of zeros, or the span itself as parent, is absent."""
    assert (normal(id="1").id, normal(parentId="2").parent_id) == ("0" * 15 + "1", "0" * 15 + "2")
    assert normal(parentId="000").parent_id is None
    assert normal(id="1", parentId="01").parent_id is None


def test_names_are_in_lower_case_and_empty_ones_absent() -> None:
    """Names of spans and services are in lower case; an empty name is absent."""
    assert normal(name="GET /A").name == "get /a"
    assert normal(name="").name is None
    assert normal(localEndpoint={"serviceName": "Orders"}).local_endpoint == Endpoint("orders")


@pytest.mark.parametrize("value", [0, -1, None])
def test_times_that_are_not_positive_are_absent(value: int | None) -> None:
    """A timestamp or duration of 0 or less is absent."""
    span = normal(timestamp=value, duration=value)
    assert (span.timestamp, span.duration) == (None, None)


@pytest.mark.parametrize(
    "endpoint", [{}, {"serviceName": ""}, {"port": 0}, {"port": -1}, {"ipv4": "not an ip"}, {"ipv6": None}]
)
def test_an_endpoint_with_nothing_in_it_is_absent(endpoint: dict[str, Any]) -> None:
    """An endpoint without a service name, address and port is absent."""
    span = normal(localEndpoint=endpoint, remoteEndpoint=endpoint)
    assert (span.local_endpoint, span.remote_endpoint) == (None, None)


def test_annotations_are_sorted_and_distinct() -> None:
    """Annotations are in the order of time and then text, each once."""
    values = [(2, "a"), (1, "b"), (2, "a"), (1, "a")]
    span = normal(annotations=[{"timestamp": timestamp, "value": value} for timestamp, value in values])
    assert span.annotations == [Annotation(1, "a"), Annotation(1, "b"), Annotation(2, "a")]


def test_tags_are_sorted() -> None:
    """Tags are in the order of their keys."""
    assert list(normal(tags={"b": "1", "a": "2"}).tags) == ["a", "b"]


def test_only_true_flags_are_kept_and_a_client_shares_nothing() -> None:
    """`debug` and `shared` are true or absent, and a client's span is not shared."""
    assert (normal(debug=False).debug, normal(shared=False).shared) == (None, None)
    assert (normal(debug=True).debug, normal(shared=True, kind="SERVER").shared) == (True, True)
    assert normal(shared=True, kind="CLIENT").shared is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1", ("127.0.0.1", None)),
        ("1.2.3", (None, None)),
        ("256.1.1.1", (None, None)),
        ("::1.2.3.4", ("1.2.3.4", None)),
        ("::FFFF:1.2.3.4", ("1.2.3.4", None)),
        ("2001:db8::1.2.3.4", (None, None)),
        ("2001:DB8:0:0:0:0:0:C001", (None, "2001:db8::c001")),
        ("1:0:2:3:4:5:6:7", (None, "1::2:3:4:5:6:7")),
        ("1:2:3:4:5:6:7:0", (None, "1:2:3:4:5:6:7::")),
        ("2001:0:0:4:0:0:0:0", (None, "2001::4:0:0:0:0")),
        ("::1", (None, "::1")),
        ("0:0:0:0:0:0:0:0", (None, "::")),
        ("fe80::1%eth0", (None, None)),
        ("1::2::3", (None, None)),
        ("", (None, None)),
    ],
)
def test_addresses_are_read_and_written_as_zipkin_does(
    text: str, address: tuple[str | None, str | None]
) -> None:
    """An address is IPv4 as it was written, or IPv6 in Zipkin's spelling, or absent."""
    assert read_ip(text) == address


def test_values_of_other_types_are_read_as_zipkin_reads_them() -> None:
    """A text is taken for a number, a number for a text, null is absent, repeated keys add up."""
    span = (
        b'{"traceId": 12, "id": "1", "timestamp": " 15E2", "duration": "7", "name": null, "kind": null, '
        b'"annotations": null, "annotations": [{"timestamp": "3", "value": 1.50}], "tags": {"a": 1}, '
        b'"tags": {"b": ""}, "localEndpoint": {"serviceName": 5, "port": "80", "ipv4": null}}'
    )
    assert decode_spans(span) == [
        Span(
            "0" * 14 + "12",
            "0" * 15 + "1",
            timestamp=1500,
            duration=7,
            local_endpoint=Endpoint("5", port=80),
            annotations=[Annotation(3, "1.50")],
            tags={"a": "1", "b": ""},
        )
    ]


@pytest.mark.parametrize("span", [b"[]", b"1", b"{}", b'{"traceId": "1", "id": "1", "tags": 1}'])
def test_what_is_not_a_span_raises_value_error(span: bytes) -> None:
    """Bytes that Zipkin would have refused raise ValueError."""
    with pytest.raises(ValueError, match="span"):
        decode_spans(span)


@given(SPANS)
def test_the_slow_reader_and_the_fast_one_agree(members: dict[str, Any]) -> None:
    """Whether msgspec or the lenient reader decodes a span, its normal form is the same."""
    payload = written(members)
    (fast,) = decode_spans(payload)
    slow = read_span(payload)
    normalize(slow)
    assert fast == slow


@given(SPANS)
def test_the_normal_form_of_a_normal_form_is_itself(members: dict[str, Any]) -> None:
    """A span that was answered and sent again is the same span."""
    (once,) = decode_spans(written(members))
    (twice,) = decode_spans(msgspec.json.encode(once))
    assert twice == once
    assert msgspec.json.encode(twice) == msgspec.json.encode(once)


def test_texts_are_sorted_as_java_sorts_them() -> None:
    """Names are in the order of their UTF-16: a character beyond U+FFFF comes before U+FFFD."""
    assert sorted_texts(["\ufffd", "\U0001f600", "a", "a"]) == ["a", "\U0001f600", "\ufffd"]
