"""The `traceparent` header by W3C Trace Context, with the vectors of its own test suite."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.wire import tracecontext

TRACE = b"12345678901234567890123456789012"
SPAN = b"1234567890123456"
IDS = TRACE + b"-" + SPAN

WELL_FORMED = {
    "sampled": (b"00-" + IDS + b"-01", True),
    "unsampled": (b"00-" + IDS + b"-00", False),
    "flags of a later level": (b"00-" + IDS + b"-03", True),
    "only flags of a later level": (b"00-" + IDS + b"-02", False),
    "a later version": (b"cc-" + IDS + b"-01", True),
    "a later version with more fields": (b"cc-" + IDS + b"-01-what-the-future-will-be-like", True),
}
MALFORMED = {
    "more characters": b"00-" + IDS + b"-01.",
    "more fields": b"00-" + IDS + b"-01-what-the-future-will-be-like",
    "a later version with something else after the flags": b"cc-" + IDS + b"-01.what-the-future",
    "version ff": b"ff-" + IDS + b"-01",
    "a version of other characters": b".0-" + IDS + b"-01",
    "a version that ends otherwise": b"0.-" + IDS + b"-01",
    "a version too long": b"000-" + IDS + b"-01",
    "a version too short": b"0-" + IDS + b"-01",
    "a trace id of zeros": b"00-" + b"0" * 32 + b"-" + SPAN + b"-01",
    "a trace id of other characters": b"00-." + TRACE[1:] + b"-" + SPAN + b"-01",
    "an upper case trace id": b"00-" + b"ABCDEF12" * 4 + b"-" + SPAN + b"-01",
    "a trace id too long": b"00-" + TRACE + b"3-" + SPAN + b"-01",
    "a trace id too short": b"00-" + TRACE[1:] + b"-" + SPAN + b"-01",
    "a 64-bit trace id": b"00-" + TRACE[:16] + b"-" + SPAN + b"-01",
    "a parent id of zeros": b"00-" + TRACE + b"-" + b"0" * 16 + b"-01",
    "a parent id of other characters": b"00-" + TRACE + b"-" + SPAN[:15] + b".-01",
    "a parent id too long": b"00-" + TRACE + b"-" + SPAN + b"7-01",
    "a parent id too short": b"00-" + TRACE + b"-" + SPAN[:15] + b"-01",
    "flags of other characters": b"00-" + IDS + b"-.0",
    "flags too long": b"00-" + IDS + b"-001",
    "flags too short": b"00-" + IDS + b"-1",
    "no flags": b"00-" + IDS,
    "a line's end": b"00-" + IDS + b"-01\n",
    "white space before": b" 00-" + IDS + b"-01",
    "empty": b"",
    "not ASCII": b"\xff\xfe",
}
HEX = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda digits: digits.strip("0"))


@pytest.mark.parametrize(("value", "sampled"), WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_well_formed_traceparent_is_read(value: bytes, sampled: bool) -> None:
    """A traceparent gives its trace id, its parent id as the span's, and the sampled flag."""
    assert tracecontext.parse(value) == (TRACE, SPAN, sampled, False)


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_traceparent_counts_as_absent(value: bytes) -> None:
    """What the W3C's tests call invalid gives no context, and raises nothing."""
    assert tracecontext.parse(value) is None


@given(st.binary(max_size=80) | st.text("0123456789abcdef-", max_size=60).map(str.encode))
def test_any_bytes_never_raise(value: bytes) -> None:
    """No value of a header raises; what is read has ids that are not zero."""
    found = tracecontext.parse(value)

    assert found is None or (int(found[0] or b"0", 16) and int(found[1] or b"0", 16))


@given(HEX, HEX, HEX, st.booleans())
def test_written_traceparent_is_read_back(high: str, low: str, span: str, sampled: bool) -> None:
    """A context that was written is the one that is read."""
    trace_id, span_id = (high + low).encode(), span.encode()

    value = tracecontext.format_traceparent(trace_id, span_id, sampled)

    assert tracecontext.parse(value) == (trace_id, span_id, sampled, False)


def test_64_bit_trace_id_is_written_padded_with_zeros() -> None:
    """W3C knows 128-bit trace ids only: a 64-bit one gets zeros on the left."""
    value = tracecontext.format_traceparent(TRACE[:16], SPAN, True)

    assert value == b"00-" + b"0" * 16 + TRACE[:16] + b"-" + SPAN + b"-01"
