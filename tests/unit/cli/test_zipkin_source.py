"""`kaspan trace --zipkin`: what is asked of a server, and what is made of its answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kaspan.cli import zipkin_source
from kaspan.cli.trace_source import SourceError
from kaspan.cli.zipkin_source import ZipkinSource
from kaspan.config import ConfigError, schema
from kaspan.store.query_request import QueryRequest

TRACE = [{"traceId": "00000000000000ab", "id": "0000000000000001", "duration": 5}]
LONGER = [{"traceId": "00000000000000cd", "id": "0000000000000001", "duration": 9}]


class FakeZipkin(ThreadingHTTPServer):
    """Answers by `answers`, a status and a text by path, and notes what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, tuple[int, str]] = {}
        self.sorts = False
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Say nothing when a client is gone."""


class Handler(BaseHTTPRequestHandler):
    server: FakeZipkin

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.headers.append(dict(self.headers))
        path = urlsplit(self.path).path
        status, text = self.server.answers.get(path, (404, "<html>nothing here"))
        if "order=unknown" in self.path and self.server.sorts:
            status = 400
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def zipkin() -> Iterator[FakeZipkin]:
    server = FakeZipkin()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def source(url: str, **agent: Any) -> ZipkinSource:
    return ZipkinSource(url, schema.Agent(**agent), {"ZIPKIN_PASSWORD": "hunter22"})


def request(**more: Any) -> QueryRequest:
    return QueryRequest(end_ts_ms=2000, lookback_ms=1000, **more)


@pytest.mark.parametrize("tail", ["", "/", "/api/v2/spans"])
def test_trace_is_asked_for_at_any_form_of_the_address(zipkin: FakeZipkin, tail: str) -> None:
    """A base, or the address that spans are sent to."""
    zipkin.answers["/api/v2/trace/ab"] = (200, json.dumps(TRACE))

    assert [span.duration for span in source(zipkin.url + tail).trace("ab")] == [5]


def test_trace_that_zipkin_does_not_have_is_empty(zipkin: FakeZipkin) -> None:
    """Zipkin names the id in its answer."""
    zipkin.answers["/api/v2/trace/ab"] = (404, "00000000000000ab not found")

    assert source(zipkin.url).trace("ab") == []


def test_search_uses_zipkins_parameters(zipkin: FakeZipkin) -> None:
    """In its grammar."""
    zipkin.answers["/api/v2/traces"] = (200, json.dumps([TRACE]))
    tags = {"kafka.topic": "a b", "error": ""}
    found = list(source(zipkin.url).traces(request(limit=7, service_name="orders", annotation_query=tags)))

    assert [trace[0].trace_id for trace in found] == ["00000000000000ab"]
    assert parse_qs(urlsplit(zipkin.asked[0]).query) == {
        "endTs": ["2000"],
        "lookback": ["1000"],
        "limit": ["7"],
        "serviceName": ["orders"],
        "annotationQuery": ["kafka.topic=a b and error"],
    }


def test_longest_of_a_zipkin_are_sorted_here(zipkin: FakeZipkin) -> None:
    """Among its newest traces: it cannot sort by duration."""
    zipkin.answers["/api/v2/traces"] = (200, json.dumps([TRACE, LONGER]))
    found = list(source(zipkin.url).traces(request(limit=1, order="longest")))

    assert [trace[0].trace_id for trace in found] == ["00000000000000cd"]
    assert "limit=1000" in zipkin.asked[-1]


def test_longest_of_kaspans_server_are_sorted_there(zipkin: FakeZipkin) -> None:
    """It refuses an order that it does not know, and so can be told from Zipkin."""
    zipkin.sorts = True
    zipkin.answers["/api/v2/traces"] = (200, json.dumps([LONGER]))
    list(source(zipkin.url).traces(request(limit=1, order="longest")))

    assert parse_qs(urlsplit(zipkin.asked[-1]).query)["order"] == ["longest"]
    assert "limit=1&" in zipkin.asked[-1] + "&"


def test_condition_that_zipkins_grammar_cannot_say_is_refused(zipkin: FakeZipkin) -> None:
    """It would look for something else."""
    with pytest.raises(SourceError, match="Zipkin cannot be asked for"):
        list(source(zipkin.url).traces(request(annotation_query={"name": "salt and pepper"})))
    assert zipkin.asked == []


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (200, "<html>", "does not answer as Zipkin does: <html>"),
        (200, '{"a":1}', "does not answer as Zipkin does"),
        (404, "\x1b[2Jno page", r"answers 404: '\\x1b\[2Jno page'; there is no Zipkin at this address"),
        (401, "token", "answers 401: token; it wants credentials"),
        (503, "The query takes more than 11 seconds.", "answers 503: The query takes more than 11 seconds."),
    ],
)
def test_other_answers_are_errors(zipkin: FakeZipkin, status: int, text: str, said: str) -> None:
    """With the address, the status, and what the server says."""
    zipkin.answers["/api/v2/trace/ab"] = (status, text)
    with pytest.raises(SourceError, match=said) as error:
        source(zipkin.url).trace("ab")
    assert zipkin.url in str(error.value)


def test_server_that_is_not_there_is_an_error() -> None:
    """With the address and the reason."""
    with pytest.raises(SourceError, match=r"http://127.0.0.1:1 does not answer: .*Connection refused"):
        source("http://127.0.0.1:1").trace("ab")


def test_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal does not wait for ever."""
    import socket

    monkeypatch.setattr(zipkin_source, "TIMEOUT_S", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(SourceError, match="timed out"),
    ):
        source(f"http://127.0.0.1:{silent.getsockname()[1]}").trace("ab")


def authorization(zipkin: FakeZipkin, url: str = "", **agent: Any) -> str | None:
    zipkin.answers["/api/v2/services"] = (200, "[]")
    source(url or zipkin.url, **agent).services()
    return zipkin.headers[-1].get("Authorization")


def test_credentials_are_those_of_the_sender_with_the_address(zipkin: FakeZipkin) -> None:
    """Secrets may be in variables."""
    mine = schema.ZipkinSender(url=f"{zipkin.url}/api/v2/spans", username="me", password="${ZIPKIN_PASSWORD}")

    assert authorization(zipkin, senders=(mine,)) == "Basic bWU6aHVudGVyMjI="


def test_credentials_go_to_no_other_server(zipkin: FakeZipkin) -> None:
    """Neither a sender's nor the agent's own token."""
    other = schema.ZipkinSender(url="http://127.0.0.2:9411", token="secret-token")

    assert authorization(zipkin, senders=(other,), token="agents-token", listen="127.0.0.1:1") is None


def test_token_of_the_agent_goes_to_the_agent(zipkin: FakeZipkin) -> None:
    """An agent with a store asks for it."""
    listen = f"127.0.0.1:{zipkin.server_port}"

    assert authorization(zipkin, token="agents-token", listen=listen) == "Bearer agents-token"


def test_credentials_in_the_address_are_used_and_not_shown(zipkin: FakeZipkin) -> None:
    """As for a sender."""
    url = zipkin.url.replace("//", "//me:hunter22@")

    assert authorization(zipkin, url) == "Basic bWU6aHVudGVyMjI="
    assert "hunter22" not in source(url).name


def test_wrong_address_shows_no_password() -> None:
    """Errors of arguments end up in logs."""
    with pytest.raises(ConfigError) as error:
        source("ftp://me:hunter22@zipkin")
    assert "hunter22" not in str(error.value)
