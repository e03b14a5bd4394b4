"""The `tracestate` header by W3C Trace Context: kept only with its traceparent, and only if all of it is
valid.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.wire.tracecontext import state_of

TRACE = b"12345678901234567890123456789012"
PARENT = ("traceparent", b"00-" + TRACE + b"-1234567890123456-01")

WELL_FORMED: dict[str, tuple[list[bytes], bytes]] = {
    "one member": ([b"congo=t61rcWkgMzE"], b"congo=t61rcWkgMzE"),
    "two members": ([b"rojo=00f067aa0ba902b7,congo=t61"], b"rojo=00f067aa0ba902b7,congo=t61"),
    "two headers": ([b"rojo=1", b"congo=2"], b"rojo=1,congo=2"),
    "white space around members": ([b" rojo=1 ,\tcongo=2\t"], b"rojo=1 ,\tcongo=2"),
    "empty members": ([b"rojo=1,,congo=2,"], b"rojo=1,,congo=2,"),
    "a tenant": ([b"fw529a3039@dt=FfAAAA"], b"fw529a3039@dt=FfAAAA"),
    "signs in a key": ([b"a_-*/1=1"], b"a_-*/1=1"),
    "signs in a value": ([b"a=x !\"#$%&'()*+-./:;<>?@[\\]^_`{|}~"], b"a=x !\"#$%&'()*+-./:;<>?@[\\]^_`{|}~"),
    "the longest key and value": ([b"z" * 256 + b"=" + b"v" * 256], b"z" * 256 + b"=" + b"v" * 256),
    "32 members": (
        [b",".join(b"k%d=1" % number for number in range(32))],
        b",".join(b"k%d=1" % number for number in range(32)),
    ),
}
MALFORMED: dict[str, list[bytes]] = {
    "empty": [b""],
    "no value": [b"rojo"],
    "an empty value": [b"rojo="],
    "two equals signs": [b"rojo=1=2"],
    "a space before the equals sign": [b"rojo =1"],
    "an upper case key": [b"Rojo=1"],
    "a key that starts with a sign": [b"_rojo=1"],
    "two tenants": [b"a@b@c=1"],
    "a system too long": [b"a@" + b"b" * 15 + b"=1"],
    "a key too long": [b"z" * 257 + b"=1"],
    "a value too long": [b"a=" + b"v" * 257],
    "one bad member among good ones": [b"rojo=1,CONGO=2"],
    "a key twice": [b"rojo=1,congo=2,rojo=3"],
    "a key twice in two headers": [b"rojo=1", b"rojo=2"],
    "33 members": [b",".join(b"k%d=1" % number for number in range(33))],
    "not ASCII": [b"rojo=\xff\xfe"],
    "a line's end": [b"rojo=1\n"],
}


def headers_of(values: list[bytes]) -> list[tuple[str, bytes | None]]:
    return [PARENT, *(("tracestate", value) for value in values)]


@pytest.mark.parametrize(("values", "expected"), WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_well_formed_tracestate_is_read(values: list[bytes], expected: bytes) -> None:
    """A list of members is kept as it is, those of several headers in their order."""
    assert state_of(headers_of(values), TRACE) == expected


@pytest.mark.parametrize("values", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_tracestate_is_given_up_whole(values: list[bytes]) -> None:
    """Where one part cannot be read nothing is kept."""
    assert state_of(headers_of(values), TRACE) == b""


ALONE: dict[str, list[tuple[str, bytes | None]]] = {
    "no headers": [],
    "no traceparent": [("tracestate", b"rojo=1")],
    "a malformed traceparent": [("traceparent", b"00-1-2-01"), ("tracestate", b"rojo=1")],
    "a null traceparent": [("traceparent", None), ("tracestate", b"rojo=1")],
    "another trace": [
        ("traceparent", b"00-" + b"a" * 32 + b"-1234567890123456-01"),
        ("tracestate", b"rojo=1"),
    ],
    "no tracestate": [PARENT],
    "a null tracestate": [PARENT, ("tracestate", None)],
    "a name in capitals": [PARENT, ("Tracestate", b"rojo=1")],
}


@pytest.mark.parametrize("headers", ALONE.values(), ids=ALONE.keys())
def test_tracestate_without_its_traceparent_is_not_read(headers: list[tuple[str, bytes | None]]) -> None:
    """A tracestate counts only together with the traceparent of the same trace."""
    assert state_of(headers, TRACE) == b""


def test_tracestate_goes_with_a_trace_id_of_64_bits() -> None:
    """A short trace id is the one that is padded with zeros in traceparent."""
    headers = [("traceparent", b"00-" + TRACE[:16].rjust(32, b"0") + b"-1234567890123456-01")]

    assert state_of([*headers, ("tracestate", b"rojo=1")], TRACE[:16]) == b"rojo=1"


@given(st.lists(st.binary(max_size=64), max_size=3))
def test_no_tracestate_raises(values: list[bytes]) -> None:
    """Any value of the header is either read or ignored, and raises nothing."""
    assert isinstance(state_of(headers_of(values), TRACE), bytes)
