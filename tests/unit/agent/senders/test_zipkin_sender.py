"""kaspan.agent.senders.zipkin: what is posted, and what an answer means."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from kaspan.agent.senders.base import Delivered, Failed, Refused
from kaspan.agent.senders.deadline import DeadlineSocket
from kaspan.agent.senders.zipkin import ZipkinSender, target
from kaspan.config.schema import ZipkinSender as Settings
from support.ring_writer import span
from support.waiting import wait_until
from support.zipkin_stub import Response, ZipkinStub

TLS = Path(__file__).parents[3] / "tls"
NOW_S = 1_700_000_000.0


@pytest.fixture
def sender(zipkin_stub: ZipkinStub) -> Iterator[ZipkinSender]:
    sender = ZipkinSender(Settings(url=zipkin_stub.url, timeout_s=5.0), wall_clock_s=lambda: NOW_S)
    yield sender
    sender.close()


def test_spans_are_posted_as_a_json_list_that_is_not_traced(
    zipkin_stub: ZipkinStub, sender: ZipkinSender
) -> None:
    """The body begins with [ at its first byte, and b3: 0 keeps Zipkin from tracing its own reports."""
    assert sender.send(span(1) + b",\n" + span(2), 1) == Delivered()
    (report,) = zipkin_stub.reports
    assert report.path == "/api/v2/spans"
    assert report.body[:1] == b"["
    assert json.loads(report.body) == [json.loads(span(1)), json.loads(span(2))]
    assert (report.headers["b3"], report.headers["Content-Type"]) == ("0", "application/json")
    assert "Transfer-Encoding" not in report.headers


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://zipkin:9411", ("http", "zipkin:9411", "/api/v2/spans")),
        ("http://zipkin:9411/", ("http", "zipkin:9411", "/api/v2/spans")),
        ("http://zipkin:9411/api/v2/spans", ("http", "zipkin:9411", "/api/v2/spans")),
        ("https://host/zipkin/", ("https", "host", "/zipkin/api/v2/spans")),
        ("http://user:pass@[::1]:9411/api/v2/spans?x=1", ("http", "[::1]:9411", "/api/v2/spans?x=1")),
    ],
)
def test_url_is_a_base_or_the_full_address(url: str, expected: tuple[str, str, str]) -> None:
    """Users give Zipkin's address either way."""
    assert target(url) == expected


def test_password_of_the_url_is_sent_and_never_named(zipkin_stub: ZipkinStub) -> None:
    """Basic authorization, percent-encoding undone; the name that logs show is without it."""
    sender = ZipkinSender(Settings(url=f"http://kas:p%40n@127.0.0.1:{zipkin_stub.port}"))
    sender.send(span(1), 1)
    assert zipkin_stub.reports[0].headers["Authorization"] == "Basic a2FzOnBAbg=="
    assert sender.name == f"zipkin http://127.0.0.1:{zipkin_stub.port}/api/v2/spans"
    sender.close()


@pytest.mark.parametrize("status", [200, 201, 204])
def test_success_that_is_not_zipkins_is_a_failure(
    zipkin_stub: ZipkinStub, sender: ZipkinSender, status: int
) -> None:
    """Zipkin answers 202; a login page, or whatever else says 200, has taken nothing."""
    zipkin_stub.answer = lambda report: Response(status, "<html>", (("Content-Type", "text/html"),))
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith(f"HTTP {status}")
    assert "text/html: Zipkin answers 202" in outcome.reason


@pytest.mark.parametrize("status", [400, 413, 422])
def test_answer_about_the_body_is_a_refusal_with_the_servers_reason(
    zipkin_stub: ZipkinStub, sender: ZipkinSender, status: int
) -> None:
    """Sending the same bytes again would be refused again."""
    zipkin_stub.answer = lambda report: Response(status, "Malformed reading\n List<Span>")
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith(f"HTTP {status}")
    assert outcome.reason.endswith("Malformed reading List<Span>")


@pytest.mark.parametrize("status", [405, 408, 409, 415, 418, 429, 500, 502, 503, 504])
def test_answer_about_the_server_is_a_failure(
    zipkin_stub: ZipkinStub, sender: ZipkinSender, status: int
) -> None:
    """The spans are not to blame and are sent again."""
    zipkin_stub.answer = lambda report: Response(status, "busy")
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Failed)
    assert outcome.reason.startswith(f"HTTP {status}")


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "wants credentials"), (403, "does not allow it"), (404, "there is no collector")],
)
def test_mistake_in_the_settings_is_a_failure_that_says_what_to_do(
    zipkin_stub: ZipkinStub, sender: ZipkinSender, status: int, hint: str
) -> None:
    """A wrong path or password must not turn spans into dead letters."""
    zipkin_stub.answer = lambda report: Response(status)
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Failed)
    assert hint in outcome.reason


def test_redirect_is_not_followed_but_named(zipkin_stub: ZipkinStub, sender: ZipkinSender) -> None:
    """Spans go where the settings say; the new address is said, so that it can be set."""
    zipkin_stub.answer = lambda report: Response(308, "", (("Location", "https://other/api/v2/spans"),))
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Failed)
    assert "https://other/api/v2/spans" in outcome.reason


@pytest.mark.parametrize(
    ("value", "expected_s"),
    [
        ("7", 7.0),
        (formatdate(NOW_S + 9, usegmt=True), 9.0),
        (formatdate(NOW_S - 9), 0.0),
        ("soon", 0.0),
        ("-1", 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_date(
    zipkin_stub: ZipkinStub, sender: ZipkinSender, value: str, expected_s: float
) -> None:
    """RFC 9110 allows seconds and dates; anything else is ignored."""
    zipkin_stub.answer = lambda report: Response(429, "", (("Retry-After", value),))
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Failed)
    assert outcome.retry_after_s == expected_s


def test_one_connection_is_kept(zipkin_stub: ZipkinStub, sender: ZipkinSender) -> None:
    """Connecting again for each message would cost more than the message."""
    kept = []
    for number in range(3):
        assert sender.send(span(number), number) == Delivered()
        kept.append(sender._connection.sock)
    assert kept[0] is not None
    assert kept[0] is kept[1] is kept[2]


def test_connection_that_the_server_closed_is_not_a_failure(
    zipkin_stub: ZipkinStub, sender: ZipkinSender
) -> None:
    """Servers close idle connections; that costs no message and no warning."""
    zipkin_stub.answer = lambda report: Response(202, "", (("Connection", "close"),))
    assert sender.send(span(1), 1) == Delivered()
    assert sender.send(span(2), 2) == Delivered()


def test_kept_connection_that_the_server_closed_meanwhile_is_not_a_failure() -> None:
    """A close that came since the last message is seen before the next is sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = ZipkinSender(Settings(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=5.0))
        for number in range(2):
            # Connected before it is accepted: the kernel takes the request, and the answer waits with it.
            outcomes = answer_once_and_close(listener, sender, number)
            assert outcomes == Delivered()
            kept = sender._connection.sock
            assert kept is not None
            wait_until(lambda kept=kept: is_closed(kept), "the server's close")  # type: ignore[misc]
        sender.close()


def answer_once_and_close(listener: socket.socket, sender: ZipkinSender, number: int) -> object:
    """Response one report as a server does that closes the connection without saying so."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            received = b""
            while not received.endswith(b"]"):
                received += connection.recv(65536)
            connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    outcome = sender.send(span(number), number)
    thread.join(10)
    return outcome


def is_closed(kept: DeadlineSocket) -> bool:
    """Whether the other side has closed: nothing else can be read there."""
    readable = select.poll()
    readable.register(kept, select.POLLIN)
    return bool(readable.poll(0))


def test_server_that_is_away_is_a_failure_that_names_the_reason(zipkin_stub: ZipkinStub) -> None:
    """Without a listener, the reason is the system's own error."""
    zipkin_stub.close()
    sender = ZipkinSender(Settings(url=zipkin_stub.url))
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Failed)
    assert "Connection refused" in outcome.reason


def test_server_that_does_not_answer_is_a_failure(zipkin_stub: ZipkinStub) -> None:
    """A hanging server holds the sender no longer than the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = ZipkinSender(Settings(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.2))
        outcome = sender.send(span(1), 1)
        assert isinstance(outcome, Failed)
        assert "timed out" in outcome.reason
        sender.close()


@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize(
    ("begin", "drop"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 202 Accepted\r\n", b"X-A: b\r\n"),
        (b"HTTP/1.1 202 Accepted\r\nContent-Length: 9999\r\n\r\n", b"x"),
        (b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
)
def test_server_that_drips_its_answer_is_a_failure(begin: bytes, drop: bytes, is_tls: bool) -> None:
    """The timeout is for the whole answer: a byte now and then does not hold the sender."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(begin)
        while not ended.wait(0.02):
            connection.sendall(drop)

    with peer(drip, is_tls) as settings:
        sender = ZipkinSender(settings)
        outcome = sender.send(span(1), 1)
        ended.set()
        assert isinstance(outcome, Failed)
        assert "timed out" in outcome.reason
        sender.close()


@pytest.mark.parametrize("is_tls", [False, True])
def test_server_that_sips_the_request_is_a_failure(is_tls: bool) -> None:
    """The timeout is for the whole request, however often a little of it is taken."""
    ended = threading.Event()

    def sip(connection: socket.socket) -> None:
        while not ended.wait(0.02):
            connection.recv(1000)

    with peer(sip, is_tls) as settings:
        sender = ZipkinSender(settings)
        outcome = sender.send(span(1, extra_bytes=8 << 20), 1)
        ended.set()
        assert isinstance(outcome, Failed)
        assert "timed out" in outcome.reason
        sender.close()


@contextmanager
def peer(work: Callable[[socket.socket], None], is_tls: bool) -> Iterator[Settings]:
    """Give the settings for a server that does `work` with one connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem", TLS / "server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                work(context.wrap_socket(connection, server_side=True) if is_tls else connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        if is_tls:
            yield Settings(url=f"https://{address}", ca_file=str(TLS / "ca.pem"), gzip=False, timeout_s=0.3)
        else:
            yield Settings(url=f"http://{address}", timeout_s=0.3)
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 2", b""],
)
def test_answer_that_is_no_http_is_a_failure(answer: bytes) -> None:
    """Whatever listens there, the spans stay."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        sender = ZipkinSender(Settings(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=5.0))
        outcome = sender.send(span(1), 1)
        assert isinstance(outcome, Failed)
        sender.close()
        thread.join(10)


def test_answer_without_end_is_not_read_to_its_end(zipkin_stub: ZipkinStub, sender: ZipkinSender) -> None:
    """A large answer is cut off, and the next message goes over a new connection."""
    zipkin_stub.answer = lambda report: Response(500, "x" * 1_000_000)
    assert isinstance(sender.send(span(1), 1), Failed)
    zipkin_stub.answer = lambda report: Response()
    assert sender.send(span(2), 2) == Delivered()
