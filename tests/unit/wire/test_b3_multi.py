"""The `X-B3-...` headers as Brave's B3Propagation reads them (vectors of its B3PropagationTest)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.wire import b3
from kaspan.wire.context import Headers

HIGH = b"1234567890123459"
TRACE = b"1234567890123451"
PARENT = b"1234567890123452"
SPAN = b"1234567890123453"
ZERO = b"0" * 16
IDS = [(b3.TRACE_ID, TRACE), (b3.SPAN_ID, SPAN)]

WELL_FORMED: dict[str, tuple[Headers, tuple[object, ...]]] = {
    "not yet sampled": (IDS, (TRACE, SPAN, None, False)),
    "sampled": ([*IDS, (b3.SAMPLED, b"1")], (TRACE, SPAN, True, False)),
    "sampled, by an old client": ([*IDS, (b3.SAMPLED, b"true")], (TRACE, SPAN, True, False)),
    "sampled, by an old client in capitals": ([*IDS, (b3.SAMPLED, b"True")], (TRACE, SPAN, True, False)),
    "unsampled": ([*IDS, (b3.SAMPLED, b"0")], (TRACE, SPAN, False, False)),
    "unsampled, by an old client": ([*IDS, (b3.SAMPLED, b"false")], (TRACE, SPAN, False, False)),
    "debug": ([*IDS, (b3.FLAGS, b"1")], (TRACE, SPAN, True, True)),
    "debug, though it says unsampled": (
        [*IDS, (b3.SAMPLED, b"0"), (b3.FLAGS, b"1")],
        (TRACE, SPAN, True, True),
    ),
    "flags that are not debug": ([*IDS, (b3.FLAGS, b"0")], (TRACE, SPAN, None, False)),
    "128-bit": ([(b3.TRACE_ID, HIGH + TRACE), IDS[1]], (HIGH + TRACE, SPAN, None, False)),
    "64-bit padded on the left": ([(b3.TRACE_ID, ZERO + TRACE), IDS[1]], (ZERO + TRACE, SPAN, None, False)),
    "128-bit that ends in zeros": ([(b3.TRACE_ID, HIGH + ZERO), IDS[1]], (HIGH + ZERO, SPAN, None, False)),
    "with a parent": ([*IDS, (b3.PARENT_ID, PARENT)], (TRACE, SPAN, None, False)),
    "only: do not sample": ([(b3.SAMPLED, b"0")], (None, None, False, False)),
    "only: sample": ([(b3.SAMPLED, b"1")], (None, None, True, False)),
    "only: debug": ([(b3.FLAGS, b"1")], (None, None, True, True)),
    "a decision and a span id that belongs to no trace": (
        [(b3.SPAN_ID, SPAN), (b3.SAMPLED, b"0")],
        (None, None, False, False),
    ),
    "a null decision": ([*IDS, (b3.SAMPLED, None)], (TRACE, SPAN, None, False)),
    "the last of several": ([(b3.TRACE_ID, HIGH), *IDS], (TRACE, SPAN, None, False)),
    "among others": ([("a", b"1"), *IDS, ("b", None)], (TRACE, SPAN, None, False)),
}

MALFORMED: dict[str, Headers] = {
    "none": [],
    "others": [("a", b"1"), ("b3", TRACE + b"-" + SPAN)],
    "a trace id alone": IDS[:1],
    "a span id alone": IDS[1:],
    "a null span id": [IDS[0], (b3.SPAN_ID, None)],
    "a trace id of zeros": [(b3.TRACE_ID, ZERO), IDS[1]],
    "a 128-bit trace id of zeros": [(b3.TRACE_ID, ZERO + ZERO), IDS[1]],
    "a span id of zeros": [IDS[0], (b3.SPAN_ID, ZERO)],
    "an upper case trace id": [(b3.TRACE_ID, b"463AC35C9F6413AD"), IDS[1]],
    "an upper case span id": [IDS[0], (b3.SPAN_ID, b"A2FB4A1D1A96D312")],
    "a trace id too long": [(b3.TRACE_ID, HIGH + TRACE + b"a"), IDS[1]],
    "a span id too long": [IDS[0], (b3.SPAN_ID, SPAN + b"a")],
    "white space": [IDS[0], (b3.SPAN_ID, SPAN[:15] + b" ")],
    "not ASCII": [IDS[0], (b3.SPAN_ID, b"\xff" * 16)],
    "an empty decision": [*IDS, (b3.SAMPLED, b"")],
    "a decision of the single header": [*IDS, (b3.SAMPLED, b"d")],
    "a decision in other words": [*IDS, (b3.SAMPLED, b"hello")],
    "a malformed parent": [*IDS, (b3.PARENT_ID, b"hello")],
    "names in lower case": [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)],
}


@pytest.mark.parametrize(("headers", "expected"), WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_well_formed_headers_are_read(headers: Headers, expected: tuple[object, ...]) -> None:
    """Each form that Brave accepts gives its trace id, span id, decision and debug flag."""
    assert b3.extract_multi(headers) == expected


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_headers_count_as_absent(headers: Headers) -> None:
    """What Brave refuses gives no context: the trace begins anew, and nothing is raised."""
    assert b3.extract_multi(headers) is None


NAMES = st.sampled_from([*b3.MULTI_HEADERS, "b3", "x"])
VALUES = (
    st.none() | st.binary(max_size=40) | st.sampled_from([TRACE, SPAN, HIGH + TRACE, ZERO, b"1", b"0", b"d"])
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_any_headers_never_raise(headers: list[tuple[str, bytes | None]]) -> None:
    """Any headers give a whole context, only a decision, or None."""
    found = b3.extract_multi(headers)

    if found is not None:
        trace_id, span_id, sampled, debug = found
        assert (trace_id is None) == (span_id is None)
        assert trace_id is None or (len(trace_id) in (16, 32) and int(trace_id, 16))
        assert span_id is None or (len(span_id) == 16 and int(span_id, 16))
        assert trace_id is not None or sampled is not None
        assert sampled or not debug


@given(st.sampled_from([TRACE, HIGH + TRACE, ZERO + TRACE]), st.booleans(), st.booleans())
def test_written_headers_are_read_back(trace_id: bytes, sampled: bool, debug: bool) -> None:
    """A context that was written is the one that is read; debug implies sampled."""
    headers = b3.inject_multi(trace_id, SPAN, sampled, debug)

    assert b3.extract_multi(headers) == (trace_id, SPAN, sampled or debug, debug)


def test_written_debug_stands_for_the_decision() -> None:
    """Debug implies sampled, and the specification leaves the decision out then."""
    assert b3.inject_multi(TRACE, SPAN, True, True) == [*IDS, (b3.FLAGS, b"1")]
