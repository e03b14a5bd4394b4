"""kaspan.agent.codec.json_strict and json_lenient: a JSON body is accepted where Zipkin accepts it."""

from __future__ import annotations

import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.batch import SEPARATOR, Batch, split
from kaspan.agent.codec.json_lenient import InvalidSpansError
from kaspan.agent.codec.json_strict import LENIENT_BYTES, json_batches
from support.span_bodies import BODIES, JSON, Body, mutated, with_members

ROW_BYTES = 500_000
JSON_BODIES = {
    name: body
    for name, body in BODIES.items()
    if body.content_type in (JSON, "") and not body.content_encoding and body.content
}


def taken(body: bytes, row_bytes: int = ROW_BYTES) -> list[Batch]:
    return list(json_batches(body, row_bytes))


def refusal_of(body: bytes) -> InvalidSpansError:
    with pytest.raises(InvalidSpansError) as refused:
        taken(body)
    return refused.value


@pytest.mark.parametrize("body", JSON_BODIES.values(), ids=JSON_BODIES.keys())
def test_body_is_taken_where_zipkin_takes_it(body: Body) -> None:
    """What Zipkin answers 202 is taken, and what it refuses is refused with a reason."""
    if body.accepted:
        taken(body.content)
    else:
        assert str(refusal_of(body.content))


@pytest.mark.parametrize(
    "body",
    [with_members(',"name":"GET","unknown":[1.50]'), with_members(',"timestamp":"12","tags":{"a":1e3}')],
)
def test_body_is_passed_on_as_it_came(body: bytes) -> None:
    """The bytes of a span are not written anew, also where it takes Zipkin's own reading to accept it."""
    assert taken(body) == [Batch(1, body[1:-1])]


@pytest.mark.parametrize(
    ("body", "passed_on"),
    [
        (with_members(',"name":"a\nb"'), with_members(',"name":"a\\nb"')),
        (with_members(',"name":"\\ud83d"'), with_members(',"name":"?"')),
        (with_members(',"name":"x"').replace(b"x", b"\xff"), with_members(',"name":"\ufffd"')),
        (with_members(',"x":1.50') + b"behind", with_members(',"x":1.50')),
    ],
)
def test_what_only_zipkin_can_read_is_passed_on_as_json(body: bytes, passed_on: bytes) -> None:
    """A body that is not valid JSON but that Zipkin accepts becomes JSON with the same content."""
    assert taken(body) == [Batch(1, passed_on[1:-1])]


def test_line_breaks_between_tokens_do_not_hide_where_spans_end() -> None:
    """Whatever a body's layout is, what separates spans in the spool stands nowhere inside a span."""
    one = b'{\r\n"traceId":"1",\n "id":"2"\n}'
    (batch,) = taken(b"[\n" + one + b",\n" + one + b"\n]\n")
    assert batch.spans == 2
    assert SEPARATOR not in batch.body
    assert [json.loads(span) for span in split(batch.body)] == [json.loads(one)] * 2


@pytest.mark.parametrize("row_bytes", [1, 100, 1000])
def test_large_body_becomes_rows_of_limited_size(row_bytes: int) -> None:
    """A body larger than a message becomes several rows, with all its spans in their order."""
    spans = [with_members(f',"name":"{"x" * size}"')[1:-1] for size in (1, 200, 30, 400, 5)]
    batches = taken(b"[" + b", ".join(spans) + b"]", row_bytes)
    assert sum(batch.spans for batch in batches) == len(spans)
    assert [span for batch in batches for span in split(batch.body)] == spans
    assert all(batch.spans == 1 or len(batch.body) <= row_bytes + 402 for batch in batches)


def test_refusal_names_the_span_in_a_body_of_many_rows() -> None:
    """The answer names the wrong span by its number, counted from the body's beginning."""
    spans = [with_members("")[1:-1]] * 20 + [with_members("", span_id="x")[1:-1]]
    with pytest.raises(InvalidSpansError, match=r"at \$\[20\]\.id$"):
        taken(b"[" + b",".join(spans) + b"]", 300)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (with_members("", trace_id="0"), "traceId is all zeros"),
        (with_members("", span_id="A"), "A should be lower-hex encoded with no prefix"),
        (with_members("", trace_id="a" * 33), "traceId.length > 32"),
        (with_members(',"tags":{"a":null}'), "No value"),
        (with_members(',"annotations":[{"value":"a"}]'), "Incomplete annotation"),
        (with_members(',"localEndpoint":{"port":65536}'), "invalid port 65536"),
        (b'[{"id":"1"}]', "Missing : traceId"),
        (b"[{", "Malformed"),
        (b"{}", "Expected a JSON_V2 encoded list"),
    ],
)
def test_refusal_has_zipkins_words(body: bytes, said: str) -> None:
    """Where Zipkin has words for what is wrong, they are used: people search for them."""
    refused = refusal_of(body)
    assert said in str(refused)
    assert refused.status == 400


@pytest.mark.parametrize(
    ("body", "name"),
    [(b"\x0c\0\0\0\1", "THRIFT"), (b"\x0b\0", "THRIFT"), (b'[{"binaryAnnotations":[]}]', "JSON_V1")],
)
def test_older_formats_are_named(body: bytes, name: str) -> None:
    """Thrift and v1 JSON are 415, and the answer says what came and what to do."""
    refused = refusal_of(body)
    assert (refused.status, name in str(refused), "JSON v2" in str(refused)) == (415, True, True)


def test_proto3_sent_as_json_is_named() -> None:
    """A client that forgot the content type is told which."""
    assert "application/x-protobuf" in str(refusal_of(b"\n\x12\n\x10"))


def test_large_body_must_be_json() -> None:
    """Only a body of some size is read in Zipkin's generous way, which takes much memory."""
    body = b"[" + b",".join([with_members(',"name":"a\nb"')[1:-1]] * (LENIENT_BYTES // 60)) + b"]"
    assert "Malformed" in str(refusal_of(body))


@pytest.mark.parametrize(
    ("members", "status"),
    [
        (',"x":[' + "1," * 1_000_000 + "1]", 413),
        (',"timestamp":"1","x":[' + "1," * 1_000_000 + "1]", 413),
        (',"tags":{' + '"a":"",' * 600_000 + '"b":""}', 413),
        (f',"timestamp":"1","name":"{"x" * LENIENT_BYTES}"', 400),
    ],
)
def test_large_span_must_be_simple(members: str, status: int) -> None:
    """A span over 1 MiB may have no endless number of values, nor what takes Zipkin's own reading."""
    refused = refusal_of(with_members(members))
    assert refused.status == status
    assert "$[0]" in str(refused)


def test_large_span_is_taken() -> None:
    """A span may be as large as a body if it is text that makes it so, braces and commas included."""
    body = with_members(f',"name":"{"x" * 3_000_000}","tags":{{"a":"{"{," * 200_000}"}}')
    assert taken(body) == [Batch(1, body[1:-1])]


@pytest.mark.parametrize("row_bytes", [ROW_BYTES, 64 * 1024 * 1024])
@pytest.mark.parametrize("element", [b"1", b"{}", b'"a"', b"null", b"[]", b'{"a":1}', b'{"id":"1"}'])
def test_what_could_not_be_spans_is_refused_before_it_is_taken_apart(element: bytes, row_bytes: int) -> None:
    """A large list of something else costs no multiple of its size, however large a row may be."""
    good = with_members("")[1:-1]
    body = b"[" + good + b"," + b",".join([element] * (2_000_000 // len(element))) + b"]"
    tracemalloc.start()
    with pytest.raises(InvalidSpansError, match="Malformed"):
        taken(body, row_bytes)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 4 * len(body)


@pytest.mark.parametrize("element", ["[]   ", "12345.5", '"abcd"'])
def test_large_id_that_is_no_text_is_refused_before_it_is_decoded(element: str) -> None:
    """Of all keys `id` is read by hand, and costs no multiple of its size either."""
    body = f'[{{"traceId":"1","id":[{",".join([element] * 240_000)}]}}]'.encode()
    tracemalloc.start()
    with pytest.raises(InvalidSpansError, match="must be strictly valid JSON"):
        taken(body)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 5 * len(body)


def test_deep_nesting_does_not_raise_anything_else() -> None:
    """JSON of a hundred thousand levels is refused as any other that cannot be read."""
    deep = "[" * 100_000
    assert refusal_of(with_members(f',"x":{deep}{deep.replace("[", "]")}')).status == 400


@pytest.mark.parametrize("text", ["1" * 500_000 + "x", "1." + "1" * 500_000 + "x", "1e" + "1" * 500_000])
def test_number_in_quotes_is_read_in_one_go(text: str) -> None:
    """Half a million digits that turn out not to be a number are refused without trying every split."""
    assert "Expected a long" in str(refusal_of(with_members(f',"timestamp":"{text}"')))


ONCE = with_members("")[1:-1]


@pytest.mark.parametrize(
    "twice",
    [
        b'{"traceId":"X","traceId":"1","id":"1"}',
        b'{"traceId":"1","id":"0000000000000000","id":"1"}',
        b'{"traceId":"1","id":"1","parentId":"G", "parentId" : "1"}',
        b'{"\\u0074raceId":"X","traceId":"1","id":"1"}',
        b'{"traceId":"1","id":"12345678901234567","id":"1"}',
        b'{"traceId":"1","id":[],"id":"1"}',
        b'{"traceId":"1","id":null,"id":"1"}',
    ],
)
def test_first_of_an_id_given_twice_is_looked_at_too(twice: bytes) -> None:
    """A span with an id twice, the first of them wrong, is refused as Zipkin refuses it."""
    with pytest.raises(InvalidSpansError, match=r"at \$\[1\]"):
        list(json_batches(b"[" + ONCE + b"," + twice + b"]", ROW_BYTES))


@pytest.mark.parametrize(
    "members",
    [
        "",
        ',"tags":{"id":"order-5","traceId":"X"}',
        ',"name":"parentId"',
        ',"id":"1"',
        ',"parentId":12',
        ',"name":"\\u0041\\u00e4"',
    ],
)
def test_names_of_ids_elsewhere_are_no_ids(members: str) -> None:
    """Tags and text may have those names, and an id may come twice where both are right."""
    taken = list(json_batches(b"[" + ONCE + b"," + with_members(members)[1:], ROW_BYTES))
    assert sum(batch.spans for batch in taken) == 2


@given(st.binary())
def test_bytes_never_raise_anything_else(raw: bytes) -> None:
    """Any bytes are taken or refused."""
    for body in (raw, b"[" + raw, b"[" + raw + b"]"):
        _take_or_refuse(body)


@given(st.sampled_from(sorted(JSON_BODIES)), st.randoms(use_true_random=False))
def test_mutated_bodies_never_raise_anything_else(name: str, rng: random.Random) -> None:
    """What is taken of a damaged body is as many spans as are said, in a list that everybody can read."""
    _take_or_refuse(mutated(JSON_BODIES[name].content, rng))


def _take_or_refuse(body: bytes) -> None:
    try:
        batches = taken(body, 64)
    except InvalidSpansError:
        return
    for batch in batches:
        assert batch.spans == len(split(batch.body)) > 0
        assert SEPARATOR not in batch.body.replace(SEPARATOR, b"", batch.spans - 1)
        json.loads(b"[" + batch.body + b"]", strict=True)
