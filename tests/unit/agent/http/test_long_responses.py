"""kaspan.agent.http: responses that are sent in pieces, to clients that read slowly, or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from kaspan.agent.http import body_writer, server
from kaspan.agent.http.messages import PIECE_BYTES, Request, Response
from kaspan.agent.http.server import VARIABLE, HttpServer
from support.raw_http import RawHttpClient
from support.served_http import FakeStream, ServedHttp
from support.waiting import wait_until

PIECES = [b"[" + b"1," * 20_000, b"2", b",3" * 30_000 + b"]"]
Serve = Callable[..., ServedHttp]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give a function that serves one response, or what a handler makes, at /x."""
    started: list[ServedHttp] = []

    def start(answer: Response | Callable[[], Response], **settings: object) -> ServedHttp:
        async def handle(request: Request) -> Response:
            return answer if isinstance(answer, Response) else answer()

        served = ServedHttp(lambda server: server.add("GET", "/x", handle), **settings)
        started.append(served)
        return served

    yield start
    for served in started:
        served.stop()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a client that does not read have 0.2 s."""
    monkeypatch.setattr(server, "SWEEP_S", 0.02)
    monkeypatch.setattr(body_writer, "STALL_S", 0.2)


def test_stream_is_sent_in_chunks_and_the_connection_goes_on(serve: Serve) -> None:
    """A body of unknown length comes in chunks, and the next request on the connection is answered."""
    served = serve(lambda: Response(200, content_type="a/b", stream=FakeStream(PIECES)))
    client = served.client()
    for _ in range(3):
        answer = client.get("/x")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert answer.headers["content-type"] == "a/b"
        assert "content-length" not in answer.headers
        assert answer.body == b"".join(PIECES)


def test_requests_sent_at_once_get_their_long_responses_in_order(serve: Serve) -> None:
    """A second request waits until the response to the first is sent whole."""
    served = serve(lambda: Response(200, stream=FakeStream(PIECES)))
    client = served.client()
    client.send(b"GET /x HTTP/1.1\r\nhost: a\r\n\r\n" * 3)
    assert [client.answer().body for _ in range(3)] == [b"".join(PIECES)] * 3


def test_head_of_a_stream_has_no_body(serve: Serve) -> None:
    """HEAD is answered with the head of GET, nothing of the body is made, and the stream is closed."""
    stream = FakeStream(PIECES)
    client = serve(Response(200, stream=stream)).client()
    assert client.get("/x", "HEAD").headers["transfer-encoding"] == "chunked"
    assert stream.closed.wait(30)
    assert stream.read_pieces == 0
    assert client.get("/nowhere").status == 404


def read_to_end(client: RawHttpClient) -> bytes:
    read = b""
    while received := client.socket.recv(65536):
        read += received
    return read


def test_client_of_http_1_0_gets_the_stream_until_the_end(serve: Serve) -> None:
    """HTTP/1.0 knows no chunks: the end of the connection is the end of the body."""
    client = serve(Response(200, stream=FakeStream(PIECES))).client()
    client.send(b"GET /x HTTP/1.0\r\n\r\n")
    head, _, body = read_to_end(client).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head
    assert body == b"".join(PIECES)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stream_that_fails_is_cut_off_so_that_the_client_knows(
    serve: Serve, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No client can take half a response for a whole one, and the log says why it was cut off."""
    stream = FakeStream(PIECES, error="the disk is on fire")
    served = serve(Response(200, stream=stream))
    client = served.client()
    client.send(f"GET /x HTTP/{version}\r\n\r\n".encode())
    with pytest.raises((ConnectionError, EOFError)):
        client.answer() if version == "1.1" else read_to_end(client)
    wait_until(lambda: "the disk is on fire" in caplog.text, "the log")
    assert served.server.refusals["cut off"] == 1
    assert stream.closed.wait(30)


def test_slow_client_holds_a_piece_and_not_the_body(serve: Serve) -> None:
    """While a client does not read, no more is made than what its socket and one piece take."""
    stream = FakeStream([b"x" * PIECE_BYTES] * 1000)
    client = serve(Response(200, stream=stream)).client()
    client.send(b"GET /x HTTP/1.1\r\n\r\n")
    read: list[int] = []

    def has_stopped() -> bool:
        read.append(stream.read_pieces)
        return read[-1] > 0 and len(read) > 20 and read[-20] == read[-1]

    wait_until(has_stopped, "the stream waits for its client")
    assert stream.read_pieces < 200  # kernels keep some MiB for a socket
    assert len(client.answer().body) == 1000 * PIECE_BYTES


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "body"])
def test_client_that_does_not_read_is_closed(serve: Serve, is_stream: bool) -> None:
    """After a time without progress the connection ends, is counted, and holds nothing."""
    stream = FakeStream([b"x" * PIECE_BYTES] * 1000)
    served = serve(Response(200, stream=stream) if is_stream else Response(200, b"x" * (64 << 20)))
    client = served.client()
    client.send(b"GET /x HTTP/1.1\r\n\r\n")
    wait_until(lambda: served.server.refusals["stalled"] == 1, "the client is closed")
    wait_until(lambda: served.server.count_connections() == 0, "nothing is held")
    assert stream.closed.wait(30) or not is_stream
    with pytest.raises((ConnectionError, EOFError)):
        client.answer()


@pytest.mark.usefixtures("hasty")
def test_stream_that_takes_its_time_is_no_fault_of_the_client(serve: Serve) -> None:
    """The limit is for clients: while the next piece is made, nobody is closed."""
    slow = FakeStream([b"1"], is_endless=True)
    answers = iter([Response(200, stream=slow), Response(200, b"x" * (64 << 20))])
    served = serve(lambda: next(answers))
    served.client().send(b"GET /x HTTP/1.1\r\n\r\n")
    assert slow.waiting.wait(30)
    served.client().send(b"GET /x HTTP/1.1\r\n\r\n")  # this one does not read, and is closed later
    wait_until(lambda: served.server.refusals["stalled"] == 1, "the other is closed")
    assert not slow.closed.is_set()


def test_client_that_goes_away_ends_the_stream(serve: Serve) -> None:
    """Nothing is made for a client that has closed its connection."""
    stream = FakeStream([b"1"], is_endless=True)
    client = serve(Response(200, stream=stream)).client()
    client.send(b"GET /x HTTP/1.1\r\n\r\n")
    assert stream.waiting.wait(30)
    client.close()
    assert stream.closed.wait(30)


@pytest.mark.parametrize(("method", "is_ended"), [("GET", True), ("POST", False)])
def test_client_that_goes_away_ends_what_only_reads(method: str, is_ended: bool) -> None:
    """A question ends with its client. Spans that somebody has posted are stored also when he has gone."""
    begun, ended, go_on = threading.Event(), threading.Event(), asyncio.Event()
    finished: list[bool] = []

    async def handle(request: Request) -> Response:
        begun.set()
        try:
            await go_on.wait()
            finished.append(True)
        finally:
            ended.set()
        return Response(200)

    served = ServedHttp(lambda server: server.add(method, "/x", handle))
    client = served.client()
    client.send(f"{method} /x HTTP/1.1\r\ncontent-length: 0\r\n\r\n".encode())
    assert begun.wait(30)
    client.close()
    wait_until(lambda: served.server.count_connections() == 0, "the client is gone")
    served.server.loop.call_soon_threadsafe(go_on.set)
    assert ended.wait(30)
    assert bool(finished) is not is_ended
    served.stop()


def test_long_body_of_known_length_has_its_length(serve: Serve) -> None:
    """A file is sent in pieces too, with its length, and the connection goes on."""
    body = bytes(range(256)) * 4096
    client = serve(Response(200, body)).client()
    for _ in range(2):
        answer = client.get("/x")
        assert answer.headers["content-length"] == str(len(body))
        assert answer.body == body
    assert client.get("/x", "HEAD").headers["content-length"] == str(len(body))


def test_server_that_stops_ends_a_stream_that_has_no_end(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that reads for ever does not keep the agent from stopping."""
    monkeypatch.setattr(server, "DRAIN_S", 0.1)
    stream = FakeStream([b"1"], is_endless=True)
    served = serve(Response(200, stream=stream))
    served.client().send(b"GET /x HTTP/1.1\r\n\r\n")
    assert stream.waiting.wait(30)
    served.server.stop()
    assert stream.closed.wait(30)


async def echo_path(request: Request) -> Response:
    return Response(200, request.path.encode("latin-1"))


def add_echo(server: HttpServer) -> None:
    server.add("GET", "/a/b" + VARIABLE, echo_path)
    server.add("GET", "/a/b/exact", echo_path)
    server.add("GET", "/a/b/", echo_path, needs_token=False)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/a/b/c", 200), ("/a/b/exact", 200), ("/a/b/c%2Fd", 200), ("//a/b//c", 200), ("/a/b/", 200)),
        *(("/a/b", 404), ("/a/b/c/d", 404), ("/a/b/c/", 404), ("/a/c", 404), ("/", 404), ("/{}", 404)),
    ],
)
def test_last_part_of_a_path_may_be_variable(path: str, status: int) -> None:
    """A route for any name is taken where no other route fits; it has one part, which is not empty."""
    served = ServedHttp(add_echo)
    assert served.client().get(path).status == status
    served.stop()


def test_variable_route_needs_the_token() -> None:
    """A path that is written in another way is no way round the token."""
    served = ServedHttp(add_echo, token="correct-horse-battery")
    for path in ("/a/b/c", "//a/b/c", "/a//b/exact", "/nowhere"):
        assert served.client().get(path).status == 401
    assert served.client().get("/a/b/").status == 200
    served.stop()
