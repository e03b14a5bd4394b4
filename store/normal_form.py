"""Decodes stored spans into Zipkin's normal form: one way to write what is the same.

The store keeps a span as it came. Only what this module returns, for indexes and for answers, has padded ids
and names in lower case, and is without what is empty or zero.

Source: Span.Builder, Endpoint.Builder and V2SpanReader of Zipkin 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from kaspan.insight.trace import TraceSpan
from kaspan.store.ip_address import read_ip
from kaspan.store.lenient_json import read_span
from kaspan.wire.span import Annotation, Endpoint, Span

_MAX_ENDPOINTS = 4096
_ZERO = "0" * 16
_HEX_DIGITS = frozenset("0123456789abcdef")

_decode_spans = msgspec.json.Decoder(list[Span]).decode
_decode_span = msgspec.json.Decoder(Span).decode
_take_apart = msgspec.json.Decoder(list[msgspec.Raw]).decode


def decode_spans(spans: bytes) -> list[Span]:
    """Decode JSON spans joined by commas, in their order. Their endpoints may be shared: do not change them.

    Raises ValueError for spans that Zipkin would have refused.
    """
    try:
        decoded = _decode_spans(b"[%b]" % spans)
    except msgspec.MsgspecError:
        return [decode_span(span) for span in take_apart(spans)]
    for span in decoded:
        normalize(span)
    return decoded


def take_apart(spans: bytes) -> list[bytes]:
    """Return each of JSON spans joined by commas. Raises ValueError if that is not what they are."""
    try:
        return [bytes(span) for span in _take_apart(b"[%b]" % spans)]
    except msgspec.MsgspecError as error:
        raise ValueError(f"not spans: {error}") from error


def decode_span(payload: bytes) -> Span:
    """Decode one span as `decode_spans` does, with values of types that only Zipkin's reader accepts."""
    try:
        span = _decode_span(payload)
    except msgspec.MsgspecError:
        span = read_span(payload)
    normalize(span)
    return span


def normalize(span: Span) -> None:
    """Bring a decoded span into normal form, in place."""
    normalize_structure(span)
    if span.name is not None:
        span.name = span.name.lower() or None
    if span.duration is not None and span.duration <= 0:
        span.duration = None
    if len(span.annotations) > 1:
        span.annotations = _sorted_annotations(span.annotations)
    if len(span.tags) > 1:
        span.tags = dict(sorted(span.tags.items()))
    if span.debug is False:
        span.debug = None


def normalize_structure(span: TraceSpan) -> None:
    """Bring the fields into normal form, in place, that say where a span belongs in its trace."""
    trace_id, span_id, parent_id = span.trace_id, span.id, span.parent_id
    if len(trace_id) != 32 or trace_id[0] == "0":
        span.trace_id = _padded(trace_id)
    if len(span_id) != 16:
        span.id = span_id = span_id.rjust(16, "0")
    if parent_id is not None:
        if len(parent_id) != 16:
            span.parent_id = parent_id = parent_id.rjust(16, "0")
        if parent_id in (span_id, _ZERO):
            span.parent_id = None
    timestamp_us, shared = span.timestamp, span.shared
    if timestamp_us is not None and timestamp_us <= 0:
        span.timestamp = None
    local, remote = span.local_endpoint, span.remote_endpoint
    if local is not None and not _is_normal(local):
        span.local_endpoint = _normal_endpoint(local)
    if remote is not None and not _is_normal(remote):
        span.remote_endpoint = _normal_endpoint(remote)
    # Only a server shares the id of its client.
    if shared is not None and (not shared or span.kind == "CLIENT"):
        span.shared = None


def _is_normal(endpoint: Endpoint) -> bool:
    """Whether an endpoint is a name in lower case. Most are, and this is the cheapest way to see it."""
    name = endpoint.service_name
    return (
        name is not None
        and name.islower()
        and endpoint.ipv4 is None
        and endpoint.ipv6 is None
        and endpoint.port is None
    )


def normalize_trace_id(text: str) -> str:
    """Return a trace id in 16 or 32 lower-case hex digits. Raises ValueError if it is not a trace id."""
    trace_id = text.lower()
    if not 0 < len(trace_id) <= 32:
        raise ValueError("traceId is empty" if not trace_id else "traceId.length > 32")
    if not _HEX_DIGITS.issuperset(trace_id):
        raise ValueError(f"{text} should be lower-hex encoded with no prefix")
    if not trace_id.strip("0"):
        raise ValueError("traceId is all zeros")
    return _padded(trace_id)


def _padded(trace_id: str) -> str:
    if len(trace_id) > 16:
        trace_id = trace_id.rjust(32, "0")
        return trace_id[16:] if trace_id.startswith(_ZERO) else trace_id
    return trace_id.rjust(16, "0")


def sorted_texts(texts: Iterable[str]) -> list[str]:
    """Return texts without repetitions in Java's order: by their UTF-16."""
    return sorted(set(texts), key=_utf16)


def _utf16(text: str) -> bytes:
    return text.encode("utf-16-be", "surrogatepass")


def _sorted_annotations(annotations: list[Annotation]) -> list[Annotation]:
    distinct = {(item.timestamp, item.value): item for item in annotations}
    return sorted(distinct.values(), key=lambda item: (item.timestamp, _utf16(item.value)))


def _normal_endpoint(endpoint: Endpoint) -> Endpoint | None:
    return _endpoint(endpoint.service_name, endpoint.ipv4, endpoint.ipv6, endpoint.port)


@lru_cache(_MAX_ENDPOINTS)
def _endpoint(service: str | None, ipv4: str | None, ipv6: str | None, port: int | None) -> Endpoint | None:
    """Return an endpoint, the same one for the same values, None if nothing is in it."""
    service = service.lower() or None if service else None
    first, second = read_ip(ipv4 or ""), read_ip(ipv6 or "")
    port = port if port and port > 0 else None
    found = Endpoint(service, second[0] or first[0], second[1] or first[1], port)
    return None if found == Endpoint() else found
