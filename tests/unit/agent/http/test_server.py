"""kaspan.agent.receivers: POST /api/v2/spans as Zipkin answers it, within limits, for any client."""

from __future__ import annotations

import errno
import gc
import gzip
import json
import resource
import socket
import ssl
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from kaspan.agent.http import connection, server
from kaspan.agent.http.messages import Request, Response
from kaspan.agent.receivers.content import Content
from kaspan.config import schema
from support.raw_http import RawHttpClient, request
from support.served_collector import ServedCollector
from support.span_bodies import BODIES, PROTO3, Body, proto_span, with_members
from support.waiting import wait_until

SPAN = with_members("")
TOKEN = "correct-horse-battery"
START = "POST /api/v2/spans HTTP/1.1\r\nhost: agent\r\n"
Serve = Callable[..., ServedCollector]


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_body_is_answered_as_zipkin_does(served: ServedCollector, body: Body) -> None:
    """202 with nothing in it where Zipkin says so, else a refusal with a line of text that says why."""
    headers = {name.lower().replace("-", "_"): value for name, value in body.headers.items()}
    answer = served.client().post(body.content, **headers)
    if body.accepted:
        assert (answer.status, answer.body) == (202, b"")
    else:
        assert answer.status in (400, 415)
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert len(answer.text) > 10
        assert answer.text.endswith("\n")


@pytest.mark.parametrize("unix", [False, True])
def test_spans_come_by_tcp_and_by_unix_socket(served: ServedCollector, unix: bool) -> None:
    """Both ways in take the same, and one connection takes many bodies."""
    client = served.client(unix)
    for number in (1, 2, 3):
        assert client.post(with_members("", span_id=str(number))).status == 202
    assert [json.loads(span)["id"] for span in served.spool.spans] == ["1", "2", "3"]
    assert served.collector.accepted_spans == 3


def test_spans_are_stored_as_they_came(served: ServedCollector) -> None:
    """What is in the spool is byte for byte what was in the body."""
    body = with_members(',"name":"GET","timestamp":1e3,"unknown":[1.50, null]')
    assert served.client().post(body).status == 202
    assert served.spool.spans == [body[1:-1]]


@pytest.mark.parametrize("body", [b"", b"[]", b"[ ]"])
def test_no_spans_are_accepted_without_the_disk(served: ServedCollector, body: bytes) -> None:
    """An empty body and an empty list are answered 202, and nothing is written."""
    served.spool.fill()
    assert served.client().post(body).status == 202


def test_body_may_come_in_chunks(served: ServedCollector) -> None:
    """A body without a length comes in chunks, split anywhere, with extensions and trailers."""
    client = served.client()
    client.send(START.encode() + b"transfer-encoding: chunked\r\n\r\n")
    for piece in (SPAN[:1], SPAN[1:40], SPAN[40:]):
        client.send(b"%x;x=1\r\n%b\r\n" % (len(piece), piece))
    client.send(b"0\r\ntrailer: 1\r\n\r\n")
    assert client.answer().status == 202
    assert served.spool.spans == [SPAN[1:-1]]


def test_request_may_come_byte_by_byte(served: ServedCollector) -> None:
    """Where the network splits a request does not matter."""
    client = served.client()
    for byte in request(SPAN, content_type="application/json"):
        client.send(bytes([byte]))
    assert client.answer().status == 202


def test_requests_sent_at_once_are_answered_in_their_order(served: ServedCollector) -> None:
    """A client need not wait for an answer before it sends the next request."""
    client = served.client()
    client.send(request(SPAN) + request(b"{}") + request(SPAN) + request(b"", "/nowhere"))
    assert [client.answer().status for _ in range(4)] == [202, 400, 202, 404]


def test_client_that_asks_before_it_sends_is_told_to_go_on(served: ServedCollector) -> None:
    """Tools such as curl wait for 100 Continue before they send a large body."""
    client = served.client()
    client.send(f"{START}expect: 100-continue\r\ncontent-length: {len(SPAN)}\r\n\r\n".encode())
    assert client.answer().status == 100
    client.send(SPAN)
    assert client.answer().status == 202


def test_wish_for_another_protocol_is_ignored(served: ServedCollector) -> None:
    """Java's own client asks for HTTP/2 in each request, and goes on in HTTP/1.1 when it is not heard."""
    client = served.client()
    upgrade = {
        "connection": "Upgrade, HTTP2-Settings",
        "upgrade": "h2c",
        "http2_settings": "AAEAAEAAAAIAAAAB",
    }
    for _ in range(2):
        assert client.post(SPAN, **upgrade).status == 202
    assert len(served.spool.spans) == 2


@pytest.mark.parametrize("line", ["GET / HTTP/1.0", "POST /api/v2/spans HTTP/1.1\r\nconnection: close"])
def test_connection_ends_when_the_client_wants_it(served: ServedCollector, line: str) -> None:
    """HTTP/1.0 and Connection: close end the connection after the answer."""
    client = served.client()
    client.send(f"{line}\r\nhost: agent\r\ncontent-length: 0\r\n\r\n".encode())
    assert client.answer().headers["connection"] == "close"
    assert client.is_closed()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v2/services", 404),
        ("POST", "/api/v2/spans/", 404),
        ("GET", "/api/v2/spans", 405),
        ("HEAD", "/api/v2/spans", 405),
        ("OPTIONS", "/api/v2/spans", 405),
        ("PUT", "/api/v2/spans?a=b", 405),
        ("POST", "/api/v2/spans?a=b", 202),
        ("POST", "http://agent:9412/api/v2/spans", 202),
    ],
)
def test_other_methods_and_paths(served: ServedCollector, method: str, path: str, status: int) -> None:
    """An unknown path is 404, another method 405 with the allowed ones, and the connection stays open."""
    client = served.client()
    for _ in range(2):
        answer = client.get(path, method)
        assert answer.status == status
    if status == 405:
        assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "content_type", "name"),
    [
        ("/api/v1/spans", "application/json", "JSON v1"),
        ("/api/v1/spans", "application/x-thrift", "Thrift"),
        ("/api/v2/spans", "application/x-thrift", "Thrift"),
    ],
)
def test_formats_that_are_not_taken_are_named(
    served: ServedCollector, path: str, content_type: str, name: str
) -> None:
    """Thrift and v1 are 415, and the answer says what is taken in their place."""
    answer = served.client().post(b"[]", path, content_type=content_type)
    assert answer.status == 415
    assert answer.text.startswith(name)
    assert "/api/v2/spans" in answer.text


def test_202_comes_only_after_the_commit(served: ServedCollector) -> None:
    """While the disk has not said that the spans are there, the client waits."""
    served.spool.may_go_on.clear()
    client = served.client()
    client.send(request(SPAN))
    assert served.spool.entered.wait(30)
    client.socket.settimeout(0.05)
    with pytest.raises(TimeoutError):
        client.answer()
    served.spool.may_go_on.set()
    client.socket.settimeout(30)
    assert client.answer().status == 202


def test_bodies_that_wait_are_committed_together(served: ServedCollector) -> None:
    """What arrives during a commit goes into the next one, all of it."""
    served.spool.may_go_on.clear()
    first, *others = [served.client() for _ in range(11)]
    first.send(request(SPAN))
    assert served.spool.entered.wait(30)
    for client in others:
        client.send(request(SPAN))
    wait_until(lambda: served.collector._commits.waiting_bytes == 11 * (len(SPAN) - 2), "all are waiting")
    served.spool.may_go_on.set()
    assert {client.answer().status for client in (first, *others)} == {202}
    assert [sum(batch.spans for batch in batches) for batches in served.spool.transactions] == [1, 10]


def test_client_that_goes_away_harms_nobody(served: ServedCollector) -> None:
    """A client that does not wait for its answer has its spans stored, and others are served on."""
    served.spool.may_go_on.clear()
    client, other = served.client(), served.client()
    client.send(request(SPAN))
    assert served.spool.entered.wait(30)
    client.close()
    served.spool.may_go_on.set()
    assert other.post(SPAN).status == 202
    wait_until(lambda: len(served.spool.spans) == 2, "both are stored")


def test_full_spool_is_429_until_there_is_room(served: ServedCollector) -> None:
    """A full spool is said with the time to wait, in words, and the same body is taken later."""
    client = served.client()
    served.spool.fill()
    answer = client.post(SPAN)
    assert (answer.status, answer.text) == (429, "the spool is full\n")
    assert int(answer.headers["retry-after"]) > 0
    assert client.post(b"{}").status == 400
    served.spool.error = None
    assert client.post(SPAN).status == 202
    assert served.server.refusals == {"spool full": 1, "invalid": 1}


def test_broken_spool_ends_the_agent(served: ServedCollector) -> None:
    """An error that no waiting mends is answered 500, and ends the receiver with it."""
    served.spool.error = OSError("gone")
    assert served.client().post(SPAN).status == 500
    served.wait()
    assert "the spool failed: gone" in str(served.failure)


def test_handler_that_fails_is_500_and_others_are_served(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault inside the agent is logged and answered, and costs one answer."""
    served = serve()

    async def fail(_: Request) -> Response:
        raise ZeroDivisionError

    served.server.add("GET", "/fails", fail)
    client = served.client()
    assert client.get("/fails").status == 500
    assert client.post(SPAN).status == 202
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("encoding", ["gzip", "identity, gzip"])
def test_gzip_is_unpacked(served: ServedCollector, encoding: str) -> None:
    """JSON and proto3 may come in gzip."""
    client = served.client()
    assert client.post(gzip.compress(SPAN), content_encoding=encoding).status == 202
    packed = gzip.compress(proto_span())
    assert client.post(packed, content_encoding=encoding, content_type=PROTO3).status == 202
    assert len(served.spool.spans) == 2


@pytest.mark.parametrize(
    ("encoding", "body"), [("br", b"\x0b\x02\x80[]\x03"), ("zstd", b"(\xb5/\xfd"), ("deflate, br", b"a")]
)
def test_encoding_that_is_not_known_is_named(served: ServedCollector, encoding: str, body: bytes) -> None:
    """A body that cannot be read for its encoding is 415, with that encoding and what to send."""
    answer = served.client().post(body, content_encoding=encoding)
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip")
    assert encoding in answer.text
    assert "Thrift" not in answer.text.title()


def test_encoding_that_says_nothing_is_passed_over(served: ServedCollector) -> None:
    """Zipkin does not look at encodings other than gzip, and takes what it can read."""
    assert served.client().post(SPAN, content_encoding="utf-8").status == 202


def test_large_body_is_read_while_others_are_served(
    served: ServedCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bodies that take milliseconds to read hold up no other client, and are read one by one."""
    entered, may_go_on, at_once, most = threading.Event(), threading.Event(), 0, 0
    whole = Content.whole

    def slow(content: Content, max_bytes: int) -> Content:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        entered.set()
        assert may_go_on.wait(30)
        at_once -= 1
        return whole(content, max_bytes)

    monkeypatch.setattr(Content, "whole", slow)
    large = with_members(f',"name":"{"x" * 200_000}"')
    clients = [served.client() for _ in range(4)]
    for client in clients[:2]:
        client.send(request(gzip.compress(large), content_encoding="gzip"))
    clients[2].send(request(large))
    clients[3].send(request(proto_span() * 2000, content_type=PROTO3))
    assert entered.wait(30)
    assert served.client().post(SPAN).status == 202
    may_go_on.set()
    assert [client.answer().status for client in clients] == [202] * 4
    assert most == 1


def test_gzip_cut_short_is_refused(served: ServedCollector) -> None:
    """Of a body that did not come whole nothing is taken."""
    answer = served.client().post(gzip.compress(SPAN)[:-4], content_encoding="gzip")
    assert (answer.status, answer.text[:19]) == (400, "Cannot gunzip spans")


def test_gzip_of_endless_pieces_is_refused(served: ServedCollector) -> None:
    """A body of a great many gzip files in a row is not followed to its end."""
    answer = served.client().post(gzip.compress(b" ") * 100_000, content_encoding="gzip")
    assert (answer.status, answer.text[:19]) == (400, "Cannot gunzip spans")


def test_decompression_bomb_is_refused(serve: Serve) -> None:
    """A small body that unpacks to more than the limit is 413, and is not unpacked further."""
    packing = zlib.compressobj(9, wbits=31)
    bomb = b"".join([packing.compress(bytes(1 << 20)) for _ in range(64)]) + packing.flush()
    answer = serve(max_body_bytes=1 << 20).client().post(bomb, content_encoding="gzip")
    assert answer.status == 413
    assert "1048576" in answer.text


def test_body_of_the_largest_size_is_taken(serve: Serve) -> None:
    """A body may have exactly as many bytes as the limit says."""
    client = serve(max_body_bytes=2000).client()
    body = SPAN + b" " * (2000 - len(SPAN))
    assert client.post(body).status == 202
    assert client.post(body + b" ").status == 413


@pytest.mark.parametrize("announced", [True, False])
def test_body_over_the_limit_is_413(serve: Serve, announced: bool) -> None:
    """A body is refused as soon as its size is known, by its length or by what came, and read no further."""
    client = serve(max_body_bytes=2000).client()
    if announced:
        client.send(f"{START}content-length: 1000000000000\r\n\r\n".encode())
    else:
        client.send(START.encode() + b"transfer-encoding: chunked\r\n\r\nbb8\r\n" + b" " * 3000)
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert "agent.max_body_bytes" in answer.text


def test_client_sees_413_although_it_still_sends(serve: Serve) -> None:
    """A client in the middle of a large body gets the answer, not a reset."""
    client = serve(max_body_bytes=100_000).client()
    client.send(request(bytes(1 << 20)))
    assert client.answer().status == 413
    assert client.is_closed()


def test_all_clients_together_hold_no_more_than_two_bodies(serve: Serve) -> None:
    """Whatever the number of clients, what is held of their bodies is limited; who is too many is 429."""
    served = serve(max_body_bytes=100_000)
    half_sent = [served.client() for _ in range(2)]
    for client in half_sent:
        client.send(request(SPAN + b" " * (100_000 - len(SPAN)))[:-1])
    wait_until(lambda: served.server.budget.held_bytes == 199_998, "both are held")
    answer = served.client().post(SPAN)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    for client in half_sent:
        client.send(b" ")
        assert client.answer().status == 202
    assert served.client().post(SPAN).status == 202
    assert served.server.budget.held_bytes == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"hello\r\n\r\n",
        START.encode() + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        START.encode() + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        START.encode() + b"content-length: -1\r\n\r\n",
        START.encode() + b"transfer-encoding: chunked\r\n\r\nz\r\n",
        b"CONNECT zipkin:9411 HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_ends_the_connection(served: ServedCollector, raw: bytes) -> None:
    """Other protocols, and requests whose length two readers could see differently, are not guessed at."""
    client = served.client()
    client.send(raw)
    assert client.answer().status in (400, 405)
    assert client.is_closed()
    assert served.client().post(SPAN).status == 202


@pytest.mark.parametrize("piece", [b"a", b"x: y\r\n"])
def test_head_over_the_limit_is_431(served: ServedCollector, piece: bytes) -> None:
    """Neither one endless header nor endlessly many are read to the end."""
    client = served.client()
    client.send(START.encode() + b"x: " + piece * 40_000)
    assert client.answer().status == 431
    assert client.is_closed()


def test_head_over_the_limit_is_431_also_when_it_comes_whole(served: ServedCollector) -> None:
    """A head is measured, not the way it came."""
    client = served.client()
    client.send(START.encode() + b"x: " + b"a" * 40_000 + b"\r\ncontent-length: 0\r\n\r\n")
    assert client.answer().status == 431


@pytest.mark.parametrize("piece", [b"a", b"x: y\r\n"])
def test_trailers_over_the_limit_are_431(served: ServedCollector, piece: bytes) -> None:
    """What stands behind the last chunk has the limit of a head."""
    client = served.client()
    client.send(START.encode() + b"transfer-encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\nx: " + piece * 60_000)
    assert client.answer().status == 431
    assert client.is_closed()


@pytest.mark.parametrize(
    "behind", ["CONNECT a:1 HTTP/1.1\r\n\r\n", START + "connection: upgrade\r\nupgrade: a\r\n\r\n"]
)
def test_refused_body_costs_others_nothing(serve: Serve, behind: str) -> None:
    """After any number of refused bodies, whatever came behind them, others are taken as before."""
    served = serve(max_body_bytes=20_000)
    chunk = b"2710\r\n" + b" " * 10_000 + b"\r\n"
    for _ in range(5):
        client = served.client()
        client.send(START.encode() + b"transfer-encoding: chunked\r\n\r\n" + chunk * 3 + b"0\r\n\r\n")
        client.send(behind.encode())
        assert client.answer().status == 413
    assert served.server.budget.held_bytes == 0
    assert served.client().post(SPAN).status == 202


def test_body_that_is_late_gives_way(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that begin large bodies and do not end them do not lock out others until their time is up."""
    # Below zero: a body is late at once, also within the millisecond in which the loop reads its clock.
    monkeypatch.setattr(server, "SLOW_BODY_S", -1.0)
    served = serve(max_body_bytes=100_000)
    late = [served.client() for _ in range(2)]
    for client in late:
        client.send(request(SPAN + b" " * (100_000 - len(SPAN)))[:-1])
    wait_until(lambda: served.server.budget.held_bytes == 199_998, "both are held")
    assert served.client().post(SPAN).status == 202
    assert late[0].answer().status == 408


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the limits of time be over soon."""
    monkeypatch.setattr(server, "SWEEP_S", 0.02)
    for name in ("IDLE_S", "HEAD_S", "BODY_S", "LINGER_S"):
        monkeypatch.setattr(connection, name, 0.2)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    "start", [START, f"{START}content-length: 10\r\n\r\n[", f"{START}transfer-encoding: chunked\r\n\r\n1"]
)
def test_request_that_does_not_end_in_time_is_408(served: ServedCollector, start: str) -> None:
    """A client that sends nothing more of its head or its body is told so, and cut off."""
    client = served.client()
    client.send(start.encode())
    assert client.answer().status == 408
    assert client.is_closed()


@pytest.mark.usefixtures("hasty")
def test_dribbling_does_not_buy_time(served: ServedCollector) -> None:
    """A head must be whole in time, however lively its bytes come."""
    client = served.client()

    def dribble() -> None:
        try:
            client.send(START.encode())
            while True:
                client.send(b"x: y\r\n")
        except OSError:
            pass

    dribbling = threading.Thread(target=dribble, daemon=True)
    dribbling.start()
    assert client.answer().status in (408, 431)
    client.socket.close()
    dribbling.join(30)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("sends_first", [False, True])
def test_unused_connection_is_closed_in_time(served: ServedCollector, sends_first: bool) -> None:
    """A connection on which nothing comes does not stay for ever."""
    client = served.client()
    if sends_first:
        assert client.post(SPAN).status == 202
    assert client.is_closed()


@pytest.mark.usefixtures("hasty")
def test_slow_disk_is_no_fault_of_the_client(served: ServedCollector) -> None:
    """A client that waits for a commit is not cut off however long it takes."""
    served.spool.may_go_on.clear()
    client, later = served.client(), served.client()
    client.send(request(SPAN))
    assert served.spool.entered.wait(30)
    assert later.is_closed()
    served.spool.may_go_on.set()
    assert client.answer().status == 202


def test_quietest_connection_gives_way_to_a_new_one(serve: Serve) -> None:
    """At the limit the client that has been quiet longest is cut off, and the new one is served."""
    served = serve(max_connections=3)
    slow = served.client()
    slow.send(START.encode())
    wait_until(
        lambda: [client.is_in_head for client in served.server._acceptor.connections] == [True], "it began"
    )
    others = [served.client() for _ in range(2)]
    for client in others:
        assert client.post(SPAN).status == 202
    assert served.client().post(SPAN).status == 202
    assert slow.is_closed()
    for client in others:
        assert client.post(SPAN).status == 202
    assert served.server.refusals == {"connections": 1}


def test_connection_that_is_refused_as_it_comes_is_closed_at_once(serve: Serve) -> None:
    """More connections than the limit that come at the same moment do not keep their descriptors."""
    served, may_go_on = serve(max_connections=1), threading.Event()
    gc.disable()  # it would close them too, but only some time later
    try:
        served.server.loop.call_soon_threadsafe(may_go_on.wait)
        clients = [served.client() for _ in range(4)]
        may_go_on.set()
        assert all(client.is_closed() for client in clients[:-1])
    finally:
        gc.enable()
    assert clients[-1].get("/").status == 404


def test_strangers_in_any_number_do_not_push_out_a_client(serve: Serve) -> None:
    """At the limit those go first of which nothing was ever taken, however new they are."""
    served = serve(max_connections=3, token=TOKEN)
    client = served.client()
    assert client.post(SPAN, authorization=f"Bearer {TOKEN}").status == 202
    for _ in range(20):
        assert served.client().post(SPAN).status == 401
    assert client.post(SPAN, authorization=f"Bearer {TOKEN}").status == 202


def test_handshakes_are_connections_too(serve: Serve, tmp_path: Path) -> None:
    """A silent connection to a TLS port counts towards the limit, and is closed before those that send."""
    served, context = serve_tls(serve, tmp_path, max_connections=3)
    silent = [served.client() for _ in range(20)]
    wait_until(lambda: served.server.refusals["connections"] >= 17, "the quietest are cut off")
    assert len(served.server._acceptor.connections) <= 3
    client = served.client()
    client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
    assert client.post(SPAN).status == 202
    assert silent[0].is_closed()


def test_no_descriptor_for_a_connection_is_survived(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the system has none, the quietest client makes room, and who waits is served after that."""
    served = serve()
    quiet = served.client()
    assert quiet.get("/").status == 404
    accept, failures = socket.socket.accept, [errno.EMFILE, errno.ENFILE, errno.ENOBUFS]

    def short(listening: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise OSError(failures.pop(), "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", short)
    assert served.client().post(SPAN).status == 202
    assert quiet.is_closed()
    assert served.server.refusals["connections"] == 1  # later failures have nobody to close


def test_connections_leave_descriptors_for_the_rest(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """More connections than half of the descriptors are not taken, and it is said which limit to raise."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 100))
    served = serve(max_connections=256)
    clients = [served.client() for _ in range(19)]
    assert clients[-1].get("/").status == 404
    assert clients[0].is_closed()
    assert "LimitNOFILE" in caplog.text


def test_head_is_answered_where_there_is_something_to_get(served: ServedCollector) -> None:
    """Load balancers and monitors ask by HEAD, and get the answer without its body."""

    async def health(_: Request) -> Response:
        return Response(200, b"UP\n")

    served.server.add("GET", "/health", health, needs_token=False)
    client = served.client()
    answer = client.get("/health", "HEAD")
    assert (answer.status, answer.headers["content-length"]) == (200, "3")
    assert client.get("/health").text == "UP\n"


@pytest.mark.parametrize(
    "rest", ["content-length: 5\r\n\r\n", "transfer-encoding: chunked\r\n\r\n5\r\n[   ]\r\n"]
)
@pytest.mark.parametrize(
    ("line", "status"),
    [("GET /health", 413), ("HEAD /health", 413), ("PUT /health", 405), ("POST /nowhere", 404)],
)
def test_body_is_read_only_where_one_is_taken(serve: Serve, line: str, status: int, rest: str) -> None:
    """Requests to public and unknown paths cannot use up the memory for bodies."""
    served = serve()

    async def health(_: Request) -> Response:
        return Response(200, b"UP\n")

    served.server.add("GET", "/health", health, needs_token=False)
    client = served.client()
    client.send(f"{line} HTTP/1.1\r\nhost: agent\r\n{rest}".encode())
    assert client.answer(without_body=line.startswith("HEAD")).status == status
    assert client.is_closed() or line.startswith("HEAD")
    assert served.server.budget.held_bytes == 0


def test_pages_of_browsers_are_refused(serve: Serve) -> None:
    """What a page sends is not taken, also where it needs not ask; who is allowed is answered."""
    served = serve(allowed_origins=("https://shop.example",))
    for headers in (
        {"origin": "https://evil.example", "content_type": "text/plain"},
        {"host": "evil.example"},
    ):
        answer = served.client().post(SPAN, **headers)
        assert answer.status == 403
    assert served.spool.spans == []
    client = served.client()
    client.send(
        b"OPTIONS /api/v2/spans HTTP/1.1\r\nhost: localhost\r\norigin: https://shop.example\r\n"
        b"access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\r\n"
    )
    assert client.answer().status == 204
    answer = client.post(SPAN, origin="https://shop.example")
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (202, "https://shop.example")
    assert served.server.refusals == {"origin": 1, "host": 1}


def test_answers_that_nobody_reads_do_not_pile_up(served: ServedCollector) -> None:
    """A client that sends requests and reads no answer is not read from any more, and others are served."""
    client = served.client()
    client.socket.settimeout(0.5)
    many = request(b"", "/" + "x" * 200) * 200_000
    with pytest.raises(TimeoutError):
        client.send(many)
    assert served.client().post(SPAN).status == 202


@pytest.mark.parametrize("given", ["", "Bearer ", "Bearer wrong-horse-battery", f"Basic {TOKEN}", TOKEN])
def test_token_is_wanted_where_it_is_set(serve: Serve, given: str) -> None:
    """Without the token no span is accepted by TCP, whatever is sent, and the answer gives no hint."""
    served = serve(token=TOKEN)
    headers = {"authorization": given} if given else {}
    answer = served.client().post(SPAN, **headers)
    assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN not in answer.text
    assert served.spool.spans == []


def test_token_opens_and_the_unix_socket_needs_none(serve: Serve) -> None:
    """A client with the token may write, and by the unix socket any user whom its file's mode lets in."""
    served = serve(token=TOKEN)
    assert served.client().post(SPAN, authorization=f"Bearer {TOKEN}").status == 202
    assert served.client(unix=True).post(SPAN).status == 202


def test_route_may_do_without_the_token(serve: Serve) -> None:
    """A route can be made for everybody, such as the one that an orchestrator asks whether we live."""
    served = serve(token=TOKEN)

    async def health(_: Request) -> Response:
        return Response(200, b"UP\n")

    served.server.add("GET", "/health", health, needs_token=False)
    served.server.add("GET", "/secret", health)
    assert served.client().get("/health").text == "UP\n"
    assert served.client().get("/secret").status == 401


def serve_tls(serve: Serve, tmp_path: Path, **settings: object) -> tuple[ServedCollector, ssl.SSLContext]:
    """Start a collector with a certificate of an authority that the context trusts."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    tls = {"cert": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")}
    served = serve(tls=schema.Tls(**tls), **settings)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return served, context


def test_tls_with_own_certificate(serve: Serve, tmp_path: Path) -> None:
    """With a certificate and its key clients come by HTTPS, and by nothing else."""
    served, context = serve_tls(serve, tmp_path, max_body_bytes=100_000)
    client = served.client()
    client.socket = context.wrap_socket(client.socket, server_hostname="localhost")
    assert client.post(SPAN).status == 202
    assert client.post(b" " * 200_000).status == 413
    plain = served.client()
    plain.send(request(SPAN))
    with pytest.raises((EOFError, ConnectionError)):
        plain.answer()


def test_stopping_answers_what_is_under_way(serve: Serve) -> None:
    """An agent that stops commits and answers what it has read, takes nothing more, and closes the rest."""
    served = serve()
    served.spool.may_go_on.clear()
    client, idle = served.client(), served.client()
    client.send(request(SPAN))
    assert served.spool.entered.wait(30)
    served.server.stop()
    assert idle.is_closed()
    served.spool.may_go_on.set()
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (202, "close")
    served.wait()
    with pytest.raises(ConnectionError):
        RawHttpClient(("127.0.0.1", served.port))
    assert not Path(served.socket).exists()
