"""Bodies of POST /api/v2/spans that lie at the edges of Zipkin's rules, and how to write proto3 by hand.

What is right is for Zipkin to say: tests/integration asks a real one and the agent for each of them.
"""

from __future__ import annotations

import gzip
import random
from typing import NamedTuple

JSON = "application/json"
PROTO3 = "application/x-protobuf"
TRACE_ID, SPAN_ID = "463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312"


class Body(NamedTuple):
    """One body and its headers; `accepted` is what Zipkin 3 does with it: 202, or a refusal."""

    content: bytes
    accepted: bool
    content_type: str = JSON
    content_encoding: str = ""

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Content-Type": self.content_type} if self.content_type else {}
        return headers | ({"Content-Encoding": self.content_encoding} if self.content_encoding else {})


def with_members(members: str, trace_id: str = TRACE_ID, span_id: str = SPAN_ID) -> bytes:
    """Return a list of one span with these JSON members more."""
    return f'[{{"traceId":"{trace_id}","id":"{span_id}"{members}}}]'.encode("utf-8", "surrogatepass")


def nested(levels: int, members: str = "", opening: str = "[", closing: str = "]") -> bytes:
    """Return a list of one span in which so many lists or objects are nested, those two included."""
    return with_members(f'{members},"x":{opening * (levels - 2)}{closing * (levels - 2)}')


def varint(number: int) -> bytes:
    """Write a number as Protocol Buffers do; a negative one as 64 bits."""
    number &= (1 << 64) - 1
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + varint(number >> 7)


def field(number: int, content: bytes) -> bytes:
    """Write a field of bytes, text or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(number: int, value: int) -> bytes:
    """Write a field of a number."""
    return varint(number << 3) + varint(value)


def proto_span(*fields: bytes, trace_id: str = TRACE_ID, span_id: str = SPAN_ID) -> bytes:
    """Return a list of one span in proto3, its ids first."""
    ids = field(1, bytes.fromhex(trace_id)) + field(3, bytes.fromhex(span_id))
    return field(1, ids + b"".join(fields))


def _members(accepted: bool, *members: str) -> dict[str, Body]:
    return {f"json {text}": Body(with_members(f",{text}"), accepted) for text in members}


def _lists(accepted: bool, *bodies: bytes) -> dict[str, Body]:
    return {f"body {body[:60]!r}": Body(body, accepted) for body in bodies}


def _ids(accepted: bool, **ids: tuple[str, ...]) -> dict[str, Body]:
    return {
        f"{name} {value!r}": Body(with_members("", **{name: value}), accepted)
        for name, values in ids.items()
        for value in values
    }


def _protos(accepted: bool, **bodies: bytes) -> dict[str, Body]:
    return {f"proto3 {name.replace('_', ' ')}": Body(body, accepted, PROTO3) for name, body in bodies.items()}


_SPAN = with_members("")
_NAMED = with_members(',"name":"get"')
_ENDPOINT = field(1, b"frontend") + field(2, bytes([127, 0, 0, 1])) + number(4, 8080)
_V1 = (
    b'[{"traceId":"1","id":"1","binaryAnnotations":[{"key":"lc","value":"","endpoint":{"serviceName":"a"}}]}]'
)

BODIES: dict[str, Body] = {
    **_lists(True, b"", b"[]", b"[ ]", b"[\n]", _SPAN, _SPAN + b"\n", _SPAN[:-1] + b",\n" + _SPAN[1:]),
    **_lists(True, b"\n[]", b"\n \n" + _SPAN),
    **_lists(True, _SPAN + b"]", _SPAN + b" behind the list", b"[]x", b"[ ]x"),
    **_lists(
        False,
        b" []",
        b"\r\n[]",
        b"\n",
        b"\n\0[]",
        b"\t" + _SPAN,
        b"\xef\xbb\xbf" + _SPAN,
        b"{}",
        _SPAN[1:-1],
        b"null",
        b"1",
    ),
    **_lists(
        False, b"[", b"[{", b"[{}]", b"[null]", b"[1]", b"[[]]", b'["a"]', _SPAN[:-1], _SPAN[:-1] + b",]"
    ),
    **_lists(False, b"\x0c\x00\x00\x00\x01", b"\x0b\x00", b"\x00", b"\xff", b"a", b"\x1f\x8b", _V1),
    **_ids(True, trace_id=("1", "a" * 16, "b" * 17, "c" * 32, "0" * 31 + "1", "0" * 15 + "1" + "0" * 16)),
    **_ids(
        False, trace_id=("", "0", "0" * 16, "0" * 32, "d" * 33, "G", "A", "-1", "0x1", " 1", "1 ", "1\\n")
    ),
    **_ids(True, span_id=("1", "0", "000", "0" * 15, "a" * 16, "0" * 15 + "1")),
    **_ids(False, span_id=("", "0" * 16, "a" * 17, "F", "z", "\\u0661", "\uff11")),
    **_members(
        True, '"parentId":"1"', '"parentId":"0"', f'"parentId":"{"0" * 16}"', f'"parentId":"{SPAN_ID}"'
    ),
    **_members(True, '"parentId":null', '"parentId":12'),
    **_members(False, '"parentId":""', '"parentId":"G"', f'"parentId":"{"a" * 17}"', '"parentId":true'),
    **_members(True, *(f'"kind":"{kind}"' for kind in ("CLIENT", "SERVER", "PRODUCER", "CONSUMER"))),
    **_members(True, '"kind":null'),
    **_members(False, '"kind":"client"', '"kind":""', '"kind":"INTERNAL"', '"kind":1', '"kind":["CLIENT"]'),
    **_members(
        True, '"name":"GET"', '"name":""', '"name":null', '"name":5', '"name":1.50', '"name":"\\ud83d\\ude00"'
    ),
    **_members(True, '"name":"\\ud83d"', '"name":"tab\there"', '"name":"line\nbreak"', '"name":"\\u0000"'),
    **_members(
        False, '"name":true', '"name":{}', '"name":[]', '"name":"', "\"name\":'a'", '"name":a', '"name":"\\q"'
    ),
    "nested 255": Body(nested(255), True),
    "nested 256": Body(nested(256), False),
    "nested 255, read leniently": Body(nested(255, ',"timestamp":"1"'), True),
    "nested 256, read leniently": Body(nested(256, ',"timestamp":"1"'), False),
    "objects nested 255": Body(nested(255, "", '{"a":', "}").replace(b":}", b":1}"), True),
    "objects nested 256": Body(nested(256, "", '{"a":', "}").replace(b":}", b":1}"), False),
    "nested 700": Body(nested(700, ',"timestamp":"1"'), False),
    "brackets in text": Body(with_members(f',"x":"{"[{" * 300}","name":"{"[" * 300}"'), True),
    **_members(
        True, '"timestamp":1', '"timestamp":0', '"timestamp":-1', '"timestamp":null', '"timestamp":"1"'
    ),
    **_members(
        True, '"timestamp":1.0', '"timestamp":1e15', '"timestamp":"1.0"', '"timestamp":9223372036854775807'
    ),
    **_members(True, '"timestamp":9223372036854775808', '"timestamp":-9223372036854775808', '"timestamp":-0'),
    **_members(True, '"timestamp":" 1.0 "', '"timestamp":"1d"', '"timestamp":"+5"', '"duration":"1e3"'),
    **_members(
        False, '"timestamp":1.5', '"timestamp":1e30', '"timestamp":"a"', '"timestamp":""', '"timestamp":01'
    ),
    **_members(
        False, '"timestamp":true', '"timestamp":NaN', '"timestamp":"NaN"', '"timestamp":" "', '"timestamp":[]'
    ),
    **_members(
        False, '"timestamp":18446744073709551616', '"timestamp":"1_0"', '"timestamp":+1', '"timestamp":.5'
    ),
    **_members(True, '"duration":0', '"duration":-5', '"duration":null', '"duration":3.0'),
    **_members(False, '"duration":0.5', '"duration":{}', '"duration":"abc"'),
    **_members(
        True,
        *(
            f'"localEndpoint":{{{members}}}'
            for members in (
                "",
                '"serviceName":"A"',
                '"serviceName":null',
                '"serviceName":1',
                '"port":0',
                '"port":65535',
                '"port":-1',
                '"port":"80"',
                '"port":80.0',
                '"port":null',
                '"ipv4":"1.2.3.4"',
                '"ipv4":"nonsense"',
                '"ipv4":"1.2.3"',
                '"ipv4":"::1"',
                '"ipv6":"2001:db8::c001"',
                '"ipv6":"1.2.3.4"',
                '"ipv6":"::ffff:1.2.3.4"',
                '"ipv6":"g::"',
                '"ipv6":"::1::"',
                '"ipv4":7',
                '"unknown":[{"a":1}]',
                '"ipv6":"12345::"',
                '"ipv4":""',
            )
        ),
    ),
    **_members(
        False,
        *(
            f'"remoteEndpoint":{{{members}}}'
            for members in (
                '"port":65536',
                '"port":1.5',
                '"port":"http"',
                '"port":2147483648',
                '"port":-2147483649',
                '"port":true',
                '"serviceName":{}',
                '"serviceName":true',
                '"ipv4":[]',
                '"port":99999999999999999999',
            )
        ),
    ),
    **_members(True, '"localEndpoint":null', '"remoteEndpoint":null'),
    **_members(False, '"localEndpoint":"frontend"', '"remoteEndpoint":[]', '"localEndpoint":1'),
    **_members(True, '"annotations":[]', '"annotations":null', '"annotations":[{"timestamp":1,"value":"a"}]'),
    **_members(
        True, '"annotations":[{"timestamp":"1","value":2}]', '"annotations":[{"timestamp":-1,"value":""}]'
    ),
    **_members(True, '"annotations":[{"value":"a","timestamp":1,"endpoint":{"serviceName":"b"}}]'),
    **_members(
        False, '"annotations":[{}]', '"annotations":[{"timestamp":1}]', '"annotations":[{"value":"a"}]'
    ),
    **_members(
        False,
        '"annotations":[{"timestamp":null,"value":"a"}]',
        '"annotations":[{"timestamp":1,"value":null}]',
    ),
    **_members(
        False,
        '"annotations":{}',
        '"annotations":[null]',
        '"annotations":["a"]',
        '"annotations":[{"timestamp":1.5,"value":"a"}]',
    ),
    **_members(
        True,
        '"tags":{}',
        '"tags":null',
        '"tags":{"a":"b"}',
        '"tags":{"a":1}',
        '"tags":{"a":1.50}',
        '"tags":{"":""}',
    ),
    **_members(True, '"tags":{"error":""}', '"tags":{"error":"no such host"}', '"tags":{"a":"b","a":"c"}'),
    **_members(
        False,
        '"tags":{"a":null}',
        '"tags":{"a":true}',
        '"tags":{"a":{}}',
        '"tags":{"a":[]}',
        '"tags":[]',
        '"tags":"a"',
    ),
    **_members(False, '"tags":{"binaryAnnotations":""}'),
    **_members(
        True,
        '"debug":true',
        '"debug":false',
        '"debug":null',
        '"shared":true',
        '"shared":false',
        '"shared":null',
    ),
    **_members(True, '"kind":"CLIENT","shared":true'),
    **_members(False, '"debug":1', '"debug":"true"', '"shared":0', '"shared":"false"'),
    **_members(
        True,
        '"unknown":1',
        '"unknown":{"deep":[[[{}]]]}',
        '"unknown":null',
        '"Name":1',
        '"unknown":"\\ud800"',
    ),
    **_members(
        False, '"unknown":', '"unknown":tru', '"unknown":-', '"unknown":1.', '"unknown":{', '"unknown":01'
    ),
    **_members(True, '"name":"a","name":"b"', f'"id":"{SPAN_ID}"', '"kind":"CLIENT","kind":"SERVER"'),
    **_members(
        False, '"kind":"X","kind":"SERVER"', '"timestamp":true,"timestamp":1', '"id":""', '"traceId":null'
    ),
    "ids of numbers": Body(b'[{"traceId":12,"id":34}]', True),
    "no id": Body(b'[{"traceId":"1"}]', False),
    "no trace id": Body(b'[{"id":"1"}]', False),
    "text that is not UTF-8": Body(_NAMED.replace(b"get", b"g\xfft"), True),
    "UTF-8 of a surrogate": Body(_NAMED.replace(b"get", b"\xed\xa0\x80"), True),
    "text not UTF-8 in a member nobody knows": Body(with_members(',"x":"?"').replace(b"?", b"\xff"), True),
    "one bad span among good ones": Body(_SPAN[:-1] + b"," + with_members("", span_id="x")[1:], False),
    "no content type": Body(_SPAN, True, ""),
    "text/plain": Body(_SPAN, True, "text/plain; charset=utf-8"),
    "thrift by its name": Body(b"\x0c\x00\x00\x00\x00", False, "application/x-thrift"),
    "gzip": Body(gzip.compress(_NAMED), True, JSON, "gzip"),
    "gzip in two pieces": Body(gzip.compress(_NAMED[:9]) + gzip.compress(_NAMED[9:]), True, JSON, "gzip"),
    "gzip that is none": Body(_NAMED, False, JSON, "gzip"),
    "gzip of a bad span": Body(gzip.compress(b"[{}]"), False, JSON, "gzip"),
    "gzip of nothing": Body(b"", True, JSON, "gzip"),
    "gzip that nobody says": Body(gzip.compress(_NAMED), False),
    "gzip of proto3": Body(gzip.compress(proto_span()), True, PROTO3, "gzip"),
    "deflate": Body(b"x\x9c" + _NAMED, False, JSON, "deflate"),
    "JSON as proto3": Body(_SPAN, False, PROTO3),
    "proto3 as JSON": Body(proto_span(), False),
    "proto3 with parameters": Body(proto_span(), True, f"{PROTO3}; charset=utf-8"),
    **_protos(
        True,
        nothing=b"",
        ids=proto_span(),
        short_ids=proto_span(trace_id="01", span_id="01"),
        span_id_of_few_zeros=proto_span(span_id="00"),
        two_spans=proto_span() + proto_span(span_id="02"),
        an_empty_span_at_the_end=proto_span() + b"\n\0",
        parent=proto_span(field(2, b"\1" * 8)),
        parent_of_zeros=proto_span(field(2, bytes(8))),
        no_parent=proto_span(field(2, b"")),
        every_kind=b"".join(proto_span(number(4, kind)) for kind in range(6)),
        name=proto_span(field(5, "größe".encode())),
        no_name=proto_span(field(5, b"")),
        name_not_utf8=proto_span(field(5, b"a\xff\xfeb")),
        times=proto_span(b"\x31" + (1_700_000_000_000_000).to_bytes(8, "little"), number(7, 1 << 40)),
        times_below_zero=proto_span(b"\x31" + b"\xff" * 8, number(7, -5)),
        endpoints=proto_span(field(8, _ENDPOINT), field(9, _ENDPOINT)),
        empty_endpoint=proto_span(field(8, b"")),
        ipv6=proto_span(field(8, field(3, bytes.fromhex("20010db8000000000000000000c00001")))),
        ipv6_of_a_wrong_length=proto_span(field(8, field(3, b"\1\2\3"))),
        ipv4_in_ipv6=proto_span(field(8, field(3, bytes(12) + bytes([1, 2, 3, 4])))),
        ipv4_mapped=proto_span(field(8, field(3, bytes(10) + b"\xff\xff" + bytes([1, 2, 3, 4])))),
        loopback=proto_span(field(8, field(3, bytes(15) + b"\1"))),
        port_below_zero=proto_span(field(8, varint(32) + b"\xff\xff\xff\xff\x0f")),
        annotation=proto_span(field(10, b"\x09" + (5).to_bytes(8, "little") + field(2, b"a"))),
        annotation_without_time=proto_span(field(10, field(2, b"a"))),
        annotation_without_value=proto_span(field(10, b"\x09" + (5).to_bytes(8, "little"))),
        empty_annotation=proto_span(field(10, b"")),
        tags=proto_span(field(11, field(1, b"a") + field(2, b"b")), field(11, field(1, b"error"))),
        tag_without_key=proto_span(field(11, field(2, b"b"))),
        empty_tag=proto_span(field(11, b"")),
        debug_and_shared=proto_span(number(12, 1), number(13, 1)),
        not_debug=proto_span(number(12, 0), number(13, 0)),
        unknown_number=proto_span(number(99, 7)),
    ),
    **_protos(
        False,
        no_list=b"\0",
        zero_length=b"\n\0",
        one_byte=b"\n",
        truncated=proto_span()[:-1],
        no_span_id=field(1, field(1, b"\1" * 8)),
        no_trace_id=field(1, field(3, b"\1" * 8)),
        trace_id_of_zeros=proto_span(trace_id="00" * 16),
        trace_id_too_long=proto_span(trace_id="01" * 17),
        trace_id_far_too_long=proto_span(trace_id="01" * 33),
        empty_trace_id=proto_span(trace_id=""),
        empty_span_id=proto_span(span_id=""),
        span_id_of_zeros=proto_span(span_id="00" * 8),
        span_id_too_long=proto_span(span_id="01" * 9),
        parent_too_long=proto_span(field(2, b"\1" * 9)),
        kind_below_zero=proto_span(varint(32) + b"\xff\xff\xff\xff\x0f"),
        port_too_large=proto_span(field(8, number(4, 65536))),
        debug_of_two=proto_span(number(12, 2)),
        length_beyond_the_end=proto_span(varint(42) + varint(1000) + b"a"),
        wire_type_that_is_none=proto_span(b"\x7b"),
        number_too_large=proto_span(varint(32) + b"\xff" * 5),
        text=b"hello",
        second_span_bad=proto_span() + b"\n\x02\x0a\x00",
    ),
}
"""Bodies by what is special about them."""

_FRAGMENTS = (
    *(bytes([byte]) for byte in b'"{}[],:0-\\ \n\0\x08\n\x12\x7f\xff'),
    *(b"null", b"true", b"1e5", b"\\u00", b'"traceId":"1",', b'"id":"2",', b'"tags":{"a":"b"},', b"\x80\x01"),
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Damage a body in one to three places: bytes changed, cut out, put in, or repeated."""
    raw = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        place = rng.randrange(len(raw) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            raw[place : place + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            del raw[place : place + rng.randrange(1, 9)]
        elif kind == 2:
            raw[place:place] = rng.choice(_FRAGMENTS)
        elif kind == 3:
            raw[place : place + 1] = rng.choice(_FRAGMENTS)
        elif kind == 4:
            other = rng.randrange(len(raw) + 1)
            raw[place:place] = raw[other : other + rng.randrange(30)]
        elif place < len(raw):
            raw[place] ^= 1 << rng.randrange(8)
    return bytes(raw)
