"""kaspan.agent.http.parser: requests come out of a connection's bytes, within limits of size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.http.body_budget import BodyBudget
from kaspan.agent.http.messages import Request, Response, make_refusal
from kaspan.agent.http.parser import MAX_HEAD_BYTES, MAX_HEADERS, RequestReader

START = b"POST /api/v2/spans HTTP/1.1\r\nhost: agent\r\n"
CHUNKED = START + b"transfer-encoding: chunked\r\n\r\n"
CONNECT = b"CONNECT zipkin:9411 HTTP/1.1\r\n\r\n"
UPGRADE = START + b"connection: upgrade\r\nupgrade: h2c\r\ncontent-length: 2\r\n\r\n[]"
SEGMENT_BYTES = 64 * 1024
MAX_BODY_BYTES = 100_000


class FakeGate:
    """Refuses what the server refuses: bodies that are too large, alone or together; and strangers."""

    def __init__(self) -> None:
        self.budget = BodyBudget(2 * MAX_BODY_BYTES)

    def refuse_head(self, request: Request) -> Response | None:
        if "stranger" in request.headers:
            return make_refusal(401, "unauthorized", "No")
        announced = int(request.headers.get("content-length", 0))
        return self.refuse_size(announced, announced)

    def refuse_size(self, size: int, body_bytes: int) -> Response | None:
        if body_bytes > MAX_BODY_BYTES:
            return make_refusal(413, "too large", "No")
        return None if self.budget.has(size) else make_refusal(429, "busy", "No")


@pytest.fixture
def gate() -> FakeGate:
    return FakeGate()


@pytest.fixture
def reader(gate: FakeGate) -> RequestReader:
    return RequestReader(gate, is_trusted=False)


def feed(reader: RequestReader, *segments: bytes) -> list[Request]:
    """Feed segments as a connection does that answers at once; the requests it would answer."""
    taken: list[Request] = []
    for segment in segments:
        for start in range(0, len(segment), SEGMENT_BYTES):
            reader.feed(segment[start : start + SEGMENT_BYTES])
            while reader.requests:
                incoming = reader.requests.popleft()
                incoming.reservation.release()
                taken.append(incoming.request)
                if not reader.requests:
                    reader.resume()
    return taken


def status_of(reader: RequestReader) -> int:
    assert reader.refusal is not None
    return reader.refusal.status


def chunks(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents)


@pytest.mark.parametrize(
    "endless",
    [
        chunks(b"[") + b"0\r\n" + b"x: y\r\n" * 10_000,
        chunks(b"[") + b"0\r\nx: " + b"y" * 60_000,
        chunks(b"[") + b"0\r\n" + b"x" * 60_000,
        b"1;" + b"x" * 60_000,
        b"1;x=y\r\n[\r\n" + b"1;" + b"x" * 100 + b"\r\n \r\n" * 1000,
        b"".join(b"1;%b\r\n \r\n" % (b"x" * 1000) for _ in range(100)),
    ],
)
def test_what_stands_around_a_body_in_chunks_is_limited(
    gate: FakeGate, reader: RequestReader, endless: bytes
) -> None:
    """Trailers and extensions, one endless or endlessly many, are read no further than a head would be."""
    tracemalloc.start()
    for _ in range(50):
        if reader.refusal is None:
            feed(reader, CHUNKED + endless if not reader.began else endless)
    reader.end()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert status_of(reader) in (400, 431)
    assert peak_bytes < 1_000_000
    assert gate.budget.held_bytes == 0


def test_trailers_mean_nothing(reader: RequestReader) -> None:
    """What comes behind a body is a header neither of its request nor of the next one."""
    trailers = b"0\r\ncontent-encoding: gzip\r\nauthorization: Bearer x\r\n\r\n"
    requests = feed(reader, CHUNKED + chunks(b"[]") + trailers + START + b"content-length: 0\r\n\r\n")
    assert [sorted(request.headers) for request in requests] == [
        ["host", "transfer-encoding"],
        ["content-length", "host"],
    ]


def test_small_chunks_cost_no_more_than_their_bytes(reader: RequestReader) -> None:
    """A body in chunks of two bytes takes no more memory than the same body whole."""
    reader.feed(CHUNKED)
    tracemalloc.start()
    for _ in range(1000):
        reader.feed(chunks(b"  ") * 40)
    held_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert reader.refusal is None
    assert held_bytes < 2 * 80_000


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES - 200, MAX_HEAD_BYTES + 1, 60_000])
@pytest.mark.parametrize("in_pieces", [True, False])
def test_head_has_a_limit_however_it_comes(reader: RequestReader, size: int, in_pieces: bool) -> None:
    """A head over 32 KiB is refused, also one that came whole in a single segment."""
    raw = START + b"x: " + b"y" * size + b"\r\ncontent-length: 0\r\n\r\n"
    taken = feed(reader, *(raw[i : i + 1000] for i in range(0, len(raw), 1000)) if in_pieces else (raw,))
    if size < MAX_HEAD_BYTES:
        assert len(taken) == 1
    else:
        assert status_of(reader) == 431


@pytest.mark.parametrize(("headers", "is_taken"), [(MAX_HEADERS - 2, True), (MAX_HEADERS - 1, False)])
def test_headers_have_a_limit_of_number(reader: RequestReader, headers: int, is_taken: bool) -> None:
    """Each header costs memory, however short it is."""
    taken = feed(reader, START + b"x:\r\n" * headers + b"content-length: 0\r\n\r\n")
    assert bool(taken) == is_taken
    if not is_taken:
        assert status_of(reader) == 431


@pytest.mark.parametrize("behind", [CONNECT, UPGRADE, UPGRADE * 3, START + b"\r\n", b"rubbish"])
@pytest.mark.parametrize(
    "refused",
    [
        CHUNKED + chunks(b" " * 60_000, b" " * 60_000) + b"0\r\n\r\n",
        CHUNKED + chunks(b" " * 1000) + b"zz\r\n",
        START + b"stranger: yes\r\ncontent-length: 3\r\n\r\n[ ]",
    ],
)
def test_refused_body_is_given_back_whatever_comes_behind_it(
    gate: FakeGate, reader: RequestReader, refused: bytes, behind: bytes
) -> None:
    """Nothing behind a refusal is read, and what the body held of the room is free again."""
    assert feed(reader, refused + behind) == []
    assert status_of(reader) in (400, 401, 413)
    reader.end()
    assert gate.budget.held_bytes == 0


def test_requests_behind_one_that_waits_stay_bytes(reader: RequestReader) -> None:
    """Of thousands of requests in a segment those are parsed that come next; the rest is kept as it is."""
    request = b"GET / HTTP/1.1\r\n\r\n"
    number = SEGMENT_BYTES // len(request)
    reader.feed(request * number)
    assert 0 < len(reader.requests) < 200
    assert len(feed(reader, b"\r\n")) == number


def test_any_number_of_wishes_for_another_protocol_is_ignored(reader: RequestReader) -> None:
    """A segment full of requests that ask for HTTP/2 is a segment full of requests."""
    requests = feed(reader, UPGRADE * 600)
    assert [request.body for request in requests] == [b"[]"] * 600
    assert reader.refusal is None


PARTS = (
    *(START, CHUNKED, CONNECT, UPGRADE, b"\r\n", b"\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"x: y\r\n"),
    *(b"content-length: 5\r\n\r\n[   ]", b"content-length: 99999\r\n\r\n", b"content-length: 0\r\n\r\n"),
    *(chunks(b"[]"), chunks(b" " * 40_000), b"0\r\n\r\n", b"0\r\nx: y\r\n", b"0\r\n", b"1;x=", b"y" * 9000),
    *(b"stranger: yes\r\n\r\n", b"expect: 100-continue\r\n", b"connection: close\r\n", b"\0", b" " * 30_000),
    *(START + b"content-length: 5\r\n\r\n[   ]", CHUNKED + chunks(b"[]") + b"0\r\n\r\n"),
)


@given(st.lists(st.sampled_from(PARTS), max_size=12), st.lists(st.integers(0, 200_000), max_size=6))
def test_requests_do_not_depend_on_segments_and_room_is_given_back(
    parts: Sequence[bytes], cuts: Sequence[int]
) -> None:
    """Whatever comes, the same requests are read wherever the network cuts it, and all room is given back."""
    raw = b"".join(parts)
    places = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    segments = [raw[start:end] for start, end in pairwise(places)]
    outcomes = []
    for pieces in ((raw,), segments):
        gate = FakeGate()
        reader = RequestReader(gate, is_trusted=False)
        requests = feed(reader, *pieces)
        assert gate.budget.held_bytes <= MAX_BODY_BYTES
        refusal = reader.refusal
        reader.end()
        assert gate.budget.held_bytes == 0
        outcomes.append((requests, refusal and refusal.status))
    assert outcomes[0] == outcomes[1]
