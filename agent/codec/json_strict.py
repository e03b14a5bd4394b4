"""Checks a JSON list of spans by Zipkin's rules, in C, which is enough for nearly every body.

A body that passes is valid for Zipkin, and is stored unchanged. Any other body is read again by
`json_lenient`, which accepts all that Zipkin accepts, and can say what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.codec.json_lenient import (
    LENIENT_BYTES,
    MAX_NESTING,
    MAX_VALUES,
    InvalidSpansError,
    read_list,
    strict,
)

_MIN_SPAN_BYTES = 24  # {"traceId":"1","id":"1"}
_BRACE_BYTES = 8  # nearly all lists of spans have more bytes to each brace

_HEX_DIGITS = b"0123456789abcdef"
_ZERO_TRACE_IDS = frozenset("0" * length for length in range(1, 33))
_ZERO_ID = "0" * 16
_ID_NAMES = (b'"traceId"', b'"id"', b'"parentId"')
_BLANKS = b" \t\r\n"
_V1_SIGN = b'yAnnotations"'
_THRIFT_SIGNS = (
    b"\x0c",
    b"\x0b",
)  # a list of structs begins with the one in Thrift's binary protocol, a text field with the other

_Micros = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_TraceId = Annotated[str, Meta(min_length=1, max_length=32)]
_IdText = Annotated[str, Meta(min_length=1, max_length=16)]
_ID_LENGTHS = frozenset(range(1, 17))


class _Id:
    """What a decoded span has for its `id`, which is noted apart: a span may have it twice."""

    __slots__ = ()


_NOTED = _Id()


class _Endpoint(msgspec.Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    service_name: str | None = None
    ipv4: str | None = None
    ipv6: str | None = None
    port: Annotated[int, Meta(ge=-(2**31), le=0xFFFF)] | None = None


class _Annotation(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    timestamp: _Micros
    value: str


class _Span(msgspec.Struct, gc=False, rename="camel", forbid_unknown_fields=True):
    # Not wire.span.Span: nobody reads its fields; it exists for what it refuses.
    trace_id: _TraceId
    id: _Id
    parent_id: _IdText | None = None
    kind: Literal["CLIENT", "SERVER", "PRODUCER", "CONSUMER"] | None = None
    name: str | None = None
    timestamp: _Micros | None = None
    duration: _Micros | None = None
    local_endpoint: _Endpoint | None = None
    remote_endpoint: _Endpoint | None = None
    annotations: list[_Annotation] | None = None
    tags: dict[str, str] | None = None
    debug: bool | None = None
    shared: bool | None = None


class _OpenSpan(_Span, gc=False, forbid_unknown_fields=False):
    """A span with members that Zipkin does not know."""


class _Object(msgspec.Struct, gc=False):
    """Any JSON object: 16 bytes of memory."""


class _Ids(msgspec.Struct, gc=False, rename="camel"):
    """A JSON object that may be a span: 160 bytes of memory."""

    trace_id: _TraceId
    id: _IdText


_decode_ids = msgspec.json.Decoder(list[_Ids]).decode
_decode_objects = msgspec.json.Decoder(list[_Object]).decode
_take_apart = msgspec.json.Decoder(list[msgspec.Raw]).decode
_without_text = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"').sub
_escaped_letter = re.compile(rb"\\u00[467]").search
_STEPS = dict(zip(b"[]{}", (1, -1, 1, -1), strict=True))
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def json_batches(body: bytes, row_bytes: int) -> Iterator[Batch]:
    """Check a body and yield its spans in batches of about `row_bytes`, byte for byte as they came.

    Only line breaks between tokens become spaces, since SEPARATOR, which splits batches, has one. A body
    without spans yields nothing. Raises InvalidSpansError where Zipkin would refuse the body; then the
    batches before that must not be used either.
    """
    if not body:
        return
    body = _opened(body)
    row_bytes = min(row_bytes, LENIENT_BYTES)
    if len(body) <= row_bytes:
        yield from _checked(body)
        return
    try:
        spans = _spans_of(body)
    except _NOT_JSON as error:
        if len(body) > LENIENT_BYTES:
            raise InvalidSpansError(f"Malformed reading List<Span> from json: {error}") from error
        yield from _checked(body)
        return
    start, size = 0, 0
    for index, span in enumerate(spans):
        size += memoryview(span).nbytes + 1
        if size >= row_bytes or index == len(spans) - 1:
            yield from _checked(b"[" + b",".join(spans[start : index + 1]) + b"]", start)
            start, size = index + 1, 0


def _spans_of(body: bytes) -> list[msgspec.Raw]:
    """Split a large body into spans. Other content is refused before it takes a multiple of its size."""
    if body.count(b"{") * _BRACE_BYTES > len(body):
        _decode_ids(body)
    elif len(_decode_objects(body)) * _MIN_SPAN_BYTES > len(body):
        raise msgspec.ValidationError("Missing : traceId id")
    return _take_apart(body)


def _checked(body: bytes, first: int = 0) -> Iterator[Batch]:
    """Yield the batch of one list; `first` is the index of its first span in the whole body."""
    if len(body) > LENIENT_BYTES and sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        limit = f"A span may have at most {MAX_VALUES} values"
        reason = f"{limit}: too many reading List<Span> from json at $[{first}]"
        raise InvalidSpansError(reason, 413)
    spans = _count_if_plainly_valid(body, first)
    if spans is None:
        if len(body) > LENIENT_BYTES:
            raise InvalidSpansError(
                f"Malformed reading List<Span> from json at $[{first}]: a list larger than {LENIENT_BYTES} "
                "bytes must be strictly valid JSON, with values of the right types"
            )
        read = read_list(body, first)
        spans = len(read)
        try:
            body.decode()
            _take_apart(body)
        except _NOT_JSON:
            # JSON that only Zipkin's reader accepts is stored as JSON that every reader accepts.
            if read:
                yield Batch(spans, SEPARATOR.join(msgspec.json.encode(strict(span)) for span in read))
            return
    if spans:
        body = body[1 : body.rindex(b"]")]
        yield Batch(spans, body.replace(b"\n", b" ") if b"\n" in body else body)


def _count_if_plainly_valid(body: bytes, first: int) -> int | None:
    """Return how many spans there are if all are surely valid, otherwise None."""
    if len(body) > LENIENT_BYTES:
        try:
            _decode_ids(body)  # `_Id` would have any value decoded, half a million lists too
        except _NOT_JSON:
            return None
    try:
        spans, ids = _decode(body, list[_Span])
    except _NOT_JSON:
        try:
            spans, ids = _decode(body, list[_OpenSpan])
            body.decode()  # msgspec does not check the text of unknown members
        except _NOT_JSON:
            return None
        if _is_deep(body):
            return None
    parent_ids = [span.parent_id for span in spans if span.parent_id is not None]
    if not _are_ids({span.trace_id for span in spans}, ids, parent_ids):
        return None
    if len(ids) > len(spans) or _may_repeat_ids(body, len(spans), len(parent_ids)):
        _check_repeated_ids(body, first)
    return len(spans)


def _are_ids(trace_ids: set[str], ids: list[str], parent_ids: list[str]) -> bool:
    """Whether all are what Zipkin takes for ids. Only `ids` may hold something other than text."""
    try:
        text = "".join(chain(trace_ids, ids, parent_ids))
    except TypeError:
        return False
    if not text.isascii() or text.encode().translate(None, _HEX_DIGITS):
        return False
    if not _ID_LENGTHS.issuperset(map(len, ids)):
        return False
    return _ZERO_ID not in ids and _ZERO_TRACE_IDS.isdisjoint(trace_ids)


def _decode(body: bytes, spans: type[Sequence[_Span]]) -> tuple[Sequence[_Span], list[str]]:
    """Decode a list, and return with it every `id`, also one that a later one replaces, of whatever type."""
    ids: list[str] = []

    def note(_: type, value: str) -> _Id:
        ids.append(value)
        return _NOTED

    return msgspec.json.decode(body, type=spans, dec_hook=note), ids


def _is_deep(body: bytes) -> bool:
    """Whether JSON is nested too deeply, by the number of open brackets at each bracket."""
    brackets = _without_text(b"", body).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_NESTING


def _may_repeat_ids(body: bytes, spans: int, parents: int) -> bool:
    """Whether a span may have `traceId` or `parentId` twice: the name occurs more often than there are ids.

    Counting is what costs here: replace() finds a rare letter in a fifth of the time of count(), by memchr().
    """
    if b"\\" in body and _escaped_letter(body) is not None:
        return True
    # Both names have a capital I, which is rare elsewhere.
    return len(body) - len(body.replace(b"I", b"")) > spans + parents and (
        body.count(b'"traceId"') > spans or body.count(b'"parentId"') > parents
    )


def _check_repeated_ids(body: bytes, first: int) -> None:
    """Check all values of repeated ids: Zipkin reads each of them, msgspec returns only the last.

    Raises InvalidSpansError where Zipkin would.
    """
    has_escapes = b"\\" in body and _escaped_letter(body) is not None
    for index, span in enumerate(map(bytes, _take_apart(body)), first):
        if has_escapes or any(span.count(name) > 1 for name in _ID_NAMES):
            if len(span) > LENIENT_BYTES:
                raise InvalidSpansError(f"A span of this size may not have an id twice: $[{index}]")
            read_list(b"[" + span + b"]", index)


def _opened(body: bytes) -> bytes:
    """Return the body from its bracket on; refuse other formats, and JSON that is not a list."""
    first = body[:1]
    if first in _THRIFT_SIGNS:
        raise InvalidSpansError(
            "Expected a JSON_V2 encoded list, but received: THRIFT; kaspan accepts Zipkin's JSON v2 and "
            "proto3",
            415,
        )
    # A first line break may begin proto3, as the tag of a span, or be white space before a JSON list.
    if first == b"\n" and body[1:2] not in (b"", b"\0"):
        body = body.lstrip(_BLANKS)
        if body[:1] != b"[":
            raise InvalidSpansError(
                "Malformed reading List<Span> from json: this looks like proto3, which needs the header "
                "Content-Type: application/x-protobuf"
            )
    if body[:1] != b"[":
        raise InvalidSpansError("Expected a JSON_V2 encoded list: the first byte must be [")
    if b"A" in body and _V1_SIGN in body:  # a letter is found ten times as fast
        raise InvalidSpansError(
            "Expected a JSON_V2 encoded list, but received: JSON_V1; kaspan accepts Zipkin's JSON v2 and "
            "proto3, so set the client to v2",
            415,
        )
    return body
