from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from kaspan.demo.harness import zipkin_query
from kaspan.demo.harness.zipkin_query import ZipkinError, ZipkinQuery

START_MS = 1_700_000_000_000


class FakeZipkin(ThreadingHTTPServer):
    """Answers every GET with `answer` and notes what was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.answer = "[]"
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeZipkin

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.answer.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def zipkin() -> Iterator[FakeZipkin]:
    server = FakeZipkin()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def trace(trace_id: str, start_ms: int, spans: int = 4) -> list[dict[str, Any]]:
    root = {"traceId": trace_id, "id": trace_id, "timestamp": start_ms * 1000}
    return [root, *({"traceId": trace_id, "id": f"{n:016x}", "parentId": trace_id} for n in range(1, spans))]


def test_trace_ids_are_of_this_run_and_in_order(zipkin: FakeZipkin) -> None:
    """Traces that began before the run are left out, and the others come in the order they began."""
    traces = [trace("b", START_MS + 2), trace("old", START_MS - 1), trace("a", START_MS + 1)]
    zipkin.answer = json.dumps(traces)
    ids = ZipkinQuery(zipkin.url).trace_ids("orders", START_MS, START_MS + 1000, spans=8)
    assert ids == ["a", "b"]
    query = parse_qs(urlsplit(zipkin.asked[0]).query)
    assert query["serviceName"] == ["orders"]
    assert query["spanName"] == ["send orders"]


def test_trace_ids_are_empty_until_all_spans_are_there(zipkin: FakeZipkin) -> None:
    """Zipkin shows a trace as soon as one span is stored; nothing is returned before the last is."""
    zipkin.answer = json.dumps([trace("a", START_MS + 1, spans=3)])
    assert ZipkinQuery(zipkin.url).trace_ids("orders", START_MS, START_MS + 1000, spans=4) == []


@pytest.mark.parametrize("tail", ["", "/", "/api/v2/spans"])
def test_link_is_the_page_of_the_trace_whatever_url_was_given(tail: str) -> None:
    """A base URL, with or without a slash, and the full URL for spans all lead to the same page."""
    query = ZipkinQuery(f"http://zipkin:9411{tail}")
    assert query.link("4bf92f3577b34da6") == "http://zipkin:9411/zipkin/traces/4bf92f3577b34da6"


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [(200, "<html>", "is that Zipkin?"), (200, "{}", "is that Zipkin?"), (404, "", "404"), (500, "", "500")],
)
def test_check_refuses_what_is_not_zipkin(zipkin: FakeZipkin, status: int, answer: str, said: str) -> None:
    """Another server at Zipkin's address is recognized before the run, and named."""
    zipkin.status, zipkin.answer = status, answer
    with pytest.raises(ZipkinError) as refused:
        ZipkinQuery(zipkin.url).check()
    assert said in str(refused.value)
    assert zipkin.url in str(refused.value)


def test_check_gives_up_on_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo stops waiting for a server that accepts the connection and does not answer."""
    import socket

    monkeypatch.setattr(zipkin_query, "REQUEST_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ZipkinError, match="timed out"):
            ZipkinQuery(url).check()
