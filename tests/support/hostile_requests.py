"""What no decent client sends, at random: whole requests, many on a connection; and large bodies."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable

START = b"POST /api/v2/spans HTTP/1.1\r\nhost: agent\r\n"
_HEADS = (
    *(START, START, START, b"GET /health HTTP/1.1\r\n", b"HEAD /metrics HTTP/1.1\r\nhost: a\r\n"),
    *(
        b"OPTIONS * HTTP/1.1\r\n",
        b"PUT http://a/api/v2/spans HTTP/1.1\r\n",
        b"POST /api/v2/spans HTTP/1.0\r\n",
    ),
    *(
        b"CONNECT zipkin:9411 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ),
)
_HEADERS = (
    *(b"connection: upgrade\r\nupgrade: h2c\r\n", b"connection: close\r\n", b"expect: 100-continue\r\n"),
    *(b"content-encoding: gzip\r\n", b"content-encoding: br\r\n", b"origin: https://evil.example\r\n"),
    *(
        b"host: evil.example\r\n",
        b"authorization: Bearer wrong-horse-battery\r\n",
        b"x:\r\n",
        b"x\r\n",
        b"\0: \r\n",
    ),
)
_TIMES = (1, 1, 1, 1, 1, 1, 2, 20, 300, 5_000, 300_000)
_MAX_BYTES = 2 << 20


def segments(rng: random.Random, body: bytes, max_body_bytes: int) -> list[bytes]:
    """Return what one client sends, in the pieces in which it does: requests with this body, and around it
    as much as makes it a little less than the largest, or more.
    """
    body += b" " * max(0, rng.choice((0, 0, 0, 1_000, max_body_bytes - 10, max_body_bytes + 10)) - len(body))
    kinds = (_endless, _refused, _requests, _requests)
    raw = rng.choice(kinds)(rng, body, max_body_bytes)[:_MAX_BYTES]
    raw *= min(rng.choice((1, 1, 1, 100)), _MAX_BYTES // len(raw))
    cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.choice((0, 0, 1, 3))))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def _endless(rng: random.Random, body: bytes, max_body_bytes: int) -> bytes:
    """A body in chunks whose trailers have no end, also where anybody may ask."""
    part = rng.choice((b"x:\r\n", b"x: y\r\n", b"xyz"))
    return (
        rng.choice(_HEADS[3:6]) + b"transfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n" + _repeated(rng, part)
    )


def _refused(rng: random.Random, body: bytes, max_body_bytes: int) -> bytes:
    """A body that is too large at its end, and more behind it."""
    first = b"%x\r\n%b\r\n" % (max_body_bytes - 10, b" " * (max_body_bytes - 10))
    rest = rng.choice((b"14\r\n%b\r\n0\r\n\r\n" % (b" " * 20), b"zz\r\n"))
    behind = rng.choice((b"CONNECT a:1 HTTP/1.1\r\n\r\n", START + _HEADERS[0] + b"\r\n", _request(rng, body)))
    return START + b"transfer-encoding: chunked\r\n\r\n" + first + rest + behind


def _requests(rng: random.Random, body: bytes, max_body_bytes: int) -> bytes:
    return b"".join(_request(rng, body) for _ in range(rng.choice((1, 1, 2, 3))))


def _request(rng: random.Random, body: bytes) -> bytes:
    headers = b"".join(_repeated(rng, rng.choice(_HEADERS)) for _ in range(rng.choice((0, 0, 1, 2))))
    rest = rng.choice((_whole, _whole, _in_chunks, _in_chunks, _in_chunks, _unfinished, _none))
    return rng.choice(_HEADS) + headers + rest(rng, body)


def _repeated(rng: random.Random, part: bytes) -> bytes:
    return part * rng.choice(_TIMES)


def _whole(rng: random.Random, body: bytes) -> bytes:
    length = max(0, len(body) + rng.choice((0, 0, 0, 0, 0, -1, 1)))
    return b"content-length: %d\r\n\r\n%b" % (length, body)


def _in_chunks(rng: random.Random, body: bytes) -> bytes:
    size = rng.choice((1, 2, 50, 5_000, 50_000))
    pieces = [body[start : start + size] for start in range(0, len(body), size)][:3_000]
    extension = rng.choice((b"", b"", b"", b";x=y", _repeated(rng, b";x")))
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)[:_MAX_BYTES]
    trailers = rng.choice((b"", b"", _repeated(rng, b"x: y\r\n"), b"x: " + _repeated(rng, b"yyy")))
    end = rng.choice((b"0\r\n", b"0\r\n", b"0\r\n", b"", b"zz\r\n")) + trailers + b"\r\n"
    return b"transfer-encoding: chunked\r\n\r\n" + chunks + end


def _unfinished(rng: random.Random, body: bytes) -> bytes:
    return b"content-length: %d\r\n\r\n%b" % (len(body) + rng.choice((1, 1, 1_000, 10**12)), body)


def _none(rng: random.Random, body: bytes) -> bytes:
    return b"\r\n"


_SPAN = b'{"traceId":"1","id":"2"'
_ELEMENTS: tuple[Callable[[int], bytes], ...] = (
    *(
        lambda _: b"1",
        lambda _: b"[]",
        lambda _: b"{}",
        lambda _: b"null",
        lambda _: b'""',
        lambda _: b"[[1]]",
    ),
    *(lambda n: b'{"%x":1}' % n, lambda n: b'"%x"' % n, lambda _: b"1" * 500, lambda _: b'"\\u00e4\\n"'),
)
_PLACES = (
    (b"[", b"]"),
    (b"[" + _SPAN + b',"x":[', b"]}]"),
    (b"[" + _SPAN + b',"timestamp":"1","x":[', b"]}]"),
    (b"[" + _SPAN + b',"annotations":[', b"]}]"),
    (b"[" + _SPAN + b',"x":[', b"]}] behind"),
    (b"[" + _SPAN + b',"timestamp":"', b'x"}]'),
    (b"[" + _SPAN + b"},", b"]"),
    (b"[" + _SPAN + b',"x":', b"}]"),
)
_MEMBERS = (b'"%x":""', b'"%x":1', b'"%x":[]', b'"a":{"b":{}}', b'"timestamp":%d')
_PROTO3 = (b"\x52\0", b"\x52\x0c\x09\1\0\0\0\0\0\0\0\x12\1x", b"\x5a\x03\x0a\x01a", b"\x42\0", b"\x2a\x01a")


def large_body(rng: random.Random, max_bytes: int) -> tuple[bytes, str]:
    """Return a body of one thing over and over, in gzip, and its content type."""
    count = rng.choice((1_000, 50_000, 500_000, 8_000_000))
    kind = rng.randrange(4)
    if kind == 0:
        element = rng.choice(_ELEMENTS)
        opening, closing = rng.choice(_PLACES)
        content = opening + _list(element, count, max_bytes) + closing
    elif kind == 1:
        member = rng.choice(_MEMBERS)
        name = rng.choice((b"tags", b"x", b"localEndpoint"))
        members = _list(lambda n: member % n if b"%" in member else member, count, max_bytes)
        content = b'[%b,%b"%b":{%b}}]' % (_SPAN, rng.choice((b"", b'"timestamp":"1",')), name, members)
    elif kind == 2:
        depth = min(count, max_bytes // 2)
        content = b"[" + _SPAN + b',"x":' + b"[" * depth + rng.choice((b"]" * depth, b"")) + b"}]"
    else:
        fields = (rng.choice(_PROTO3) * count)[:max_bytes]
        span = b"\x0a\x01\x01\x1a\x01\x01" + fields
        spans = rng.choice(
            (b"\x0a" + _varint(len(span)) + span, b"\x0a\x06\x0a\x01\x01\x1a\x01\x01" * (count // 4))
        )
        return gzip.compress(spans[:max_bytes], 1), "application/x-protobuf"
    return gzip.compress(content[: max_bytes - rng.choice((0, 1))], 1), "application/json"


def _list(element: Callable[[int], bytes], count: int, max_bytes: int) -> bytes:
    """Join elements; of a great many the first thousand are repeated."""
    some = b",".join(element(number) for number in range(min(count, 1_000)))
    return b",".join([some] * max(1, min(count // 1_000, max_bytes // (len(some) + 1))))


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 0x80 else bytes([number & 0x7F | 0x80]) + _varint(number >> 7)
