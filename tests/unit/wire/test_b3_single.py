"""The `b3` header as Brave's parser reads it, and as every B3 library may read ours.

The vectors are those of Brave's B3SingleFormatTest and of openzipkin/b3-propagation's README.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kaspan.wire import b3

HIGH = b"1234567890123459"
TRACE = b"1234567890123451"
PARENT = b"1234567890123452"
SPAN = b"1234567890123453"
ZERO = b"0" * 16

HEX = st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda digits: digits.strip("0"))
SPAN_IDS = HEX.map(str.encode)
TRACE_IDS = st.one_of(HEX, st.tuples(HEX, HEX).map("".join)).map(str.encode)


WELL_FORMED = {
    "64-bit trace, not yet sampled": (TRACE + b"-" + SPAN, (TRACE, SPAN, None, False)),
    "128-bit trace, not yet sampled": (HIGH + TRACE + b"-" + SPAN, (HIGH + TRACE, SPAN, None, False)),
    "unsampled": (TRACE + b"-" + SPAN + b"-0", (TRACE, SPAN, False, False)),
    "sampled": (TRACE + b"-" + SPAN + b"-1", (TRACE, SPAN, True, False)),
    "debug": (TRACE + b"-" + SPAN + b"-d", (TRACE, SPAN, True, True)),
    "parent and unsampled": (TRACE + b"-" + SPAN + b"-0-" + PARENT, (TRACE, SPAN, False, False)),
    "parent and debug": (TRACE + b"-" + SPAN + b"-d-" + PARENT, (TRACE, SPAN, True, True)),
    "parent, not yet sampled": (TRACE + b"-" + SPAN + b"-" + PARENT, (TRACE, SPAN, None, False)),
    "largest": (HIGH + TRACE + b"-" + SPAN + b"-1-" + PARENT, (HIGH + TRACE, SPAN, True, False)),
    "a parent of zeros": (TRACE + b"-" + SPAN + b"-1-" + ZERO, (TRACE, SPAN, True, False)),
    "64-bit trace padded on the left": (
        ZERO + TRACE + b"-" + SPAN + b"-1",
        (ZERO + TRACE, SPAN, True, False),
    ),
    "128-bit trace that ends in zeros": (HIGH + ZERO + b"-" + SPAN + b"-1", (HIGH + ZERO, SPAN, True, False)),
    "only: do not sample": (b"0", (None, None, False, False)),
    "only: sample": (b"1", (None, None, True, False)),
    "only: debug": (b"d", (None, None, True, True)),
    "the README's example": (
        b"80f198ee56343ba864fe8b2a57d3eff7-05e3ac9a4f6e3b90-1-e457b5a2e4d86bd1",
        (b"80f198ee56343ba864fe8b2a57d3eff7", b"05e3ac9a4f6e3b90", True, False),
    ),
}

MALFORMED = {
    "words": b"not-a-tumor",
    "a UUID": b"b970dafd-0d95-40aa-95d8-1d8725aebe40",
    "not ASCII": TRACE + b"-" + SPAN[:15] + "\N{PILE OF POO}".encode(),
    "only a hyphen": b"-",
    "empty": b"",
    "blank": b" ",
    "a trace id of zeros": ZERO + b"-" + SPAN + b"-1",
    "a 128-bit trace id of zeros": ZERO + ZERO + b"-" + SPAN + b"-1",
    "a span id of zeros": TRACE + b"-" + ZERO + b"-1",
    "a 128-bit trace with a span id of zeros": HIGH + TRACE + b"-" + ZERO + b"-1",
    "too many fields": TRACE + b"-" + SPAN + b"-1-" + PARENT + b"-",
    "an unknown decision": TRACE + b"-" + SPAN + b"-f",
    "a decision in words": TRACE + b"-" + SPAN + b"-true",
    "only an unknown decision": b"2",
    "no trace id": b"-" + TRACE[:15] + b"-" + SPAN,
    "no span id": TRACE + b"--",
    "no span id but a parent": TRACE + b"--" + PARENT,
    "nothing after the span id": TRACE + b"-" + SPAN + b"-",
    "no decision between hyphens": TRACE + b"-" + SPAN + b"--" + PARENT,
    "nothing after the decision": TRACE + b"-" + SPAN + b"-d-",
    "a truncated trace id": b"1-" + SPAN,
    "a truncated 128-bit trace id": HIGH[:15] + TRACE + b"-" + SPAN,
    "a truncated span id": TRACE + b"-" + SPAN[:15],
    "a truncated parent": TRACE + b"-" + SPAN + b"-" + PARENT[:15],
    "a truncated parent after the decision": TRACE + b"-" + SPAN + b"-1-" + PARENT[:15],
    "a trace id too long": TRACE + TRACE + b"a-" + SPAN,
    "a span id too long": TRACE + b"-" + SPAN + b"a",
    "a decision too long": TRACE + b"-" + SPAN + b"-11-" + PARENT,
    "a parent too long": TRACE + b"-" + SPAN + b"-" + PARENT + b"a",
    "a parent too long after the decision": TRACE + b"-" + SPAN + b"-1-" + PARENT + b"a",
    "upper case": b"80F198EE56343BA864FE8B2A57D3EFF7-05E3AC9A4F6E3B90-1",
    "an upper case debug": b"D",
    "white space before": b" " + TRACE + b"-" + SPAN + b"-1",
    "white space after": TRACE + b"-" + SPAN + b"-1 ",
    "a line's end after": HIGH + TRACE + b"-" + SPAN + b"-1\n",
    "a hyphen inside a long id": b"-" + HIGH[:15] + TRACE + b"-" + SPAN + b"-1",
    "another delimiter": HIGH + TRACE + b"_" + SPAN + b"-1",
    "another delimiter before the decision": HIGH + TRACE + b"-" + SPAN + b"_1",
}


@pytest.mark.parametrize(("value", "expected"), WELL_FORMED.values(), ids=WELL_FORMED.keys())
def test_well_formed_b3_is_read(value: bytes, expected: tuple[object, ...]) -> None:
    """Each form that Brave accepts gives its trace id, span id, decision and debug flag."""
    assert b3.parse(value) == expected


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_b3_counts_as_absent(value: bytes) -> None:
    """What Brave refuses gives no context, and raises nothing."""
    assert b3.parse(value) is None


def brave(value: bytes) -> tuple[object, ...] | None:
    """Read a b3 field by field, as the specification lists them."""
    decisions = {b"0": (False, False), b"1": (True, False), b"d": (True, True)}
    if value in decisions:
        return None, None, *decisions[value]
    trace_id, *fields = value.split(b"-")
    digits = set(b"0123456789abcdef")

    def is_id(field: bytes, *lengths: int) -> bool:
        return len(field) in lengths and set(field) <= digits

    if not 1 <= len(fields) <= 3 or not is_id(trace_id, 16, 32) or not is_id(fields[0], 16):
        return None
    if not trace_id.strip(b"0") or not fields[0].strip(b"0"):
        return None
    span_id, *rest = fields
    sampled, debug = decisions[rest.pop(0)] if rest and rest[0] in decisions else (None, False)
    if len(rest) > 1 or (rest and not is_id(rest[0], 16)):
        return None
    return trace_id, span_id, sampled, debug


PIECES = st.sampled_from(
    [HIGH, TRACE, SPAN, ZERO, SPAN[:15], b"a", b"0", b"1", b"d", b"", b"F" * 16, b"\xff"]
)


@given(st.lists(PIECES, max_size=6).map(b"-".join) | st.lists(PIECES, max_size=6).map(b"".join))
@example(HIGH + TRACE + b"-" + SPAN + b"-1")
def test_b3_of_any_fields_is_read_as_the_specification_lists_them(value: bytes) -> None:
    """Any joined fields give the same as the fields read one by one."""
    assert b3.parse(value) == brave(value)


DIGITS = st.text("0123456789abcdef-", max_size=80).map(str.encode)
AS_LONG_AS_MOST = st.text("01a-", min_size=50, max_size=50).map(lambda digits: digits.encode() + b"1")


@given(st.binary(max_size=80) | DIGITS | AS_LONG_AS_MOST)
@example(b"1" * 51)
@example(b"-" * 50 + b"1")
def test_any_bytes_never_raise(value: bytes) -> None:
    """No value of a header raises, and only valid B3 is accepted."""
    assert b3.parse(value) == brave(value)


@given(TRACE_IDS, SPAN_IDS, st.booleans(), st.booleans())
def test_written_b3_is_read_back(trace_id: bytes, span_id: bytes, sampled: bool, debug: bool) -> None:
    """A context that was written is the one that is read; debug implies sampled."""
    value = b3.format_single(trace_id, span_id, sampled, debug)

    assert b3.parse(value) == (trace_id, span_id, sampled or debug, debug)


@pytest.mark.parametrize(
    ("sampled", "debug", "expected"), [(True, False, b"1"), (False, False, b"0"), (True, True, b"d")]
)
def test_written_b3_has_ids_and_decision_and_no_parent(sampled: bool, debug: bool, expected: bytes) -> None:
    """A message's b3 is `trace-span-decision`: its receiver always makes a new span."""
    assert (
        b3.format_single(HIGH + TRACE, SPAN, sampled, debug) == HIGH + TRACE + b"-" + SPAN + b"-" + expected
    )


@given(TRACE_IDS, SPAN_IDS)
def test_template_of_a_sampled_trace_writes_what_format_single_does(trace_id: bytes, span_id: bytes) -> None:
    """The producer fills in the template itself, and must write the same header."""
    assert b3.SAMPLED_TEMPLATE % (trace_id, span_id) == b3.format_single(trace_id, span_id, True, False)
