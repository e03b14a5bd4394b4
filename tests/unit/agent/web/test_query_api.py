"""kaspan.agent.web.query_api: Zipkin's query API, answered as Zipkin answers it, within bounds."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from kaspan.agent.http import body_writer, server
from kaspan.agent.web import query
from kaspan.agent.web.query_api import QueryApi
from kaspan.config import schema
from kaspan.store.normal_form import decode_spans
from kaspan.store.reader import QueryLimitError
from kaspan.wire.span import Span
from support.query_reader import QueryReader
from support.raw_http import RawHttpClient, Response
from support.served_http import ServedHttp
from support.waiting import wait_until
from support.zipkin_answers import ANSWERS, AUTOCOMPLETE_KEYS, CACHE, MATCHES, SPANS, TRACE_ID, WINDOW, Answer

NOW_S = 1_800_000_000.0
LARGE = 30_000
"""Spans of a trace whose JSON does not fit into sockets: some 6 MB."""
Serve = Callable[..., RawHttpClient]


class Served:
    """A query API over a reader in memory."""

    def __init__(self, **settings: object) -> None:
        self.reader = QueryReader(AUTOCOMPLETE_KEYS)
        self.reader.storage.accept(decode_spans(SPANS[1:-1].encode()))
        given = {"store": schema.Store(autocomplete_keys=AUTOCOMPLETE_KEYS), **settings}
        self.api = QueryApi(self.reader, schema.Agent(**given), lambda: NOW_S)  # type: ignore[arg-type]
        self.http = ServedHttp(self.api.add_to, **given)

    def get(self, path: str, method: str = "GET", **headers: str) -> Response:
        return self.http.client().get(path, method, **headers)

    def store_large_trace(self) -> bytes:
        """Store a trace of many spans; return its JSON."""
        spans = [Span("a" * 16, f"{number:016x}", tags={"x": f"{number}" * 30}) for number in range(1, LARGE)]
        self.reader.large_traces["a" * 16] = spans
        return msgspec.json.encode(spans)


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Give a function that serves an API with these settings."""
    started: list[Served] = []

    def start(**settings: object) -> Served:
        started.append(Served(**settings))
        return started[-1]

    yield start
    for served in started:
        served.reader.may_go_on.set()
        served.http.stop()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


@pytest.mark.parametrize("root", ["/api/v2", "/zipkin/api/v2"])
@pytest.mark.parametrize(("path", "expected"), ANSWERS.items(), ids=ANSWERS.keys())
def test_query_is_answered_as_zipkin_does(served: Served, root: str, path: str, expected: Answer) -> None:
    """Status, text, names and cache header are Zipkin's: tests/integration asks Zipkin for the same table."""
    answer = served.get(f"{root}/{path}")
    assert answer.status == expected.status
    if expected.json is None:
        assert answer.text == expected.text
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    else:
        assert json.loads(answer.body) == expected.json
        assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("cache-control", "") == expected.cache
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("parameters", "is_found"), MATCHES.items())
def test_search_reads_its_parameters_as_zipkin_does(served: Served, parameters: str, is_found: bool) -> None:
    """Names are in lower case, `all` is any span, an annotation query has Zipkin's grammar."""
    answer = served.get(f"/api/v2/traces?{WINDOW}&{parameters}")
    traces = json.loads(answer.body)
    assert len(traces) == is_found
    assert {span["traceId"] for trace in traces for span in trace} == ({TRACE_ID} if is_found else set())


def test_search_has_zipkins_defaults(served: Served) -> None:
    """Ten traces of the last day, newest first; the longest first only if they are asked for."""
    served.get("/api/v2/traces")
    served.get("/api/v2/traces?order=longest&lookback=9223372036854775807&endTs=9223372036854775807")
    first, second = served.reader.searches
    assert (first.end_ts_ms, first.lookback_ms, first.limit) == (int(NOW_S * 1000), 86_400_000, 10)
    assert (first.order, second.order) == ("newest", "longest")
    assert 0 <= second.first_us < second.last_us < 2**63
    answer = served.get("/api/v2/traces?order=oldest")
    assert (answer.status, answer.text) == (400, 'order is "oldest"; it may be newest or longest')


def test_trace_has_all_its_spans_in_zipkins_json(served: Served) -> None:
    """A trace comes whole, also when the reader gives it in portions, and what is absent is left out."""
    spans = json.loads(served.get(f"/api/v2/trace/{TRACE_ID}").body)
    sent = json.loads(SPANS)
    for span in sent:
        span["id"] = span["id"].rjust(16, "0")
    del sent[2]["shared"]  # as in Zipkin: only a server shares its client's id
    assert spans == sent
    both = json.loads(served.get(f"/api/v2/traceMany?traceIds=1,{TRACE_ID}").body)
    assert both == [sent]


def test_names_are_cached_once_there_are_many_services(served: Served) -> None:
    """As in Zipkin: who has three services or fewer sees new ones at once; the last count of them counts."""
    for name in "abc":
        served.reader.storage.accept(decode_spans(SPANS[1:-1].replace("frontend", name).encode()))
    assert "cache-control" not in served.get("/api/v2/spans?serviceName=a").headers
    assert served.get("/api/v2/services").headers["cache-control"] == CACHE
    assert served.get("/api/v2/spans?serviceName=a").headers["cache-control"] == CACHE
    assert served.get("/api/v2/remoteServices?serviceName=a").headers["cache-control"] == CACHE


def test_nothing_is_kept_by_shared_caches_where_there_is_a_token(serve: Callable[..., Served]) -> None:
    """A proxy in between must not give one client's names to another, who has no token."""
    token = "correct-horse-battery"
    answer = serve(token=token).get("/api/v2/autocompleteKeys", authorization=f"Bearer {token}")
    assert answer.headers["cache-control"] == f"private, {CACHE}"


@pytest.mark.parametrize("path", ["/api/v2/services", "/zipkin/api/v2/traces", "/config.json", "/", "/info"])
def test_everything_needs_the_token(serve: Callable[..., Served], path: str) -> None:
    """Where agent.token is set, nothing of the store is shown without it."""
    served = serve(token="correct-horse-battery")
    assert served.get(path).status == 401
    assert served.reader.asked == 0


@pytest.mark.parametrize("path", ["/api/v2/services", f"/api/v2/trace/{TRACE_ID}", "/zipkin/api/v2/traces"])
@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    ],
)
def test_page_elsewhere_reads_nothing(served: Served, path: str, headers: dict[str, str]) -> None:
    """Neither by a name that leads here, nor from its own origin, nor as an image; the store is not asked."""
    answer = served.get(path, **{"host": "localhost", **headers})
    assert answer.status == 403
    assert "access-control-allow-origin" not in answer.headers
    assert served.reader.asked == 0


def test_allowed_page_reads(serve: Callable[..., Served]) -> None:
    """Grafana or Zipkin's page elsewhere reads what agent.web.allowed_origins allows it to."""
    origin = "https://grafana.example"
    served = serve(web=schema.Web(allowed_origins=(origin,)))
    answer = served.get("/api/v2/services", origin=origin)
    assert answer.status == 200
    assert answer.headers["access-control-allow-origin"] == origin
    asked = served.get("/api/v2/services", "OPTIONS", origin=origin, access_control_request_method="GET")
    assert asked.status == 204
    assert "GET" in asked.headers["access-control-allow-methods"]


def test_other_methods_are_refused_with_those_that_are_allowed(served: Served) -> None:
    """HEAD is answered as GET without its body; others get 405."""
    head = served.get(f"/api/v2/trace/{TRACE_ID}", "HEAD")
    assert int(head.headers["content-length"]) == len(served.get(f"/api/v2/trace/{TRACE_ID}").body)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"):
        answer = served.get(f"/api/v2/trace/{TRACE_ID}", method)
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/config.json", "/zipkin/config.json"])
@pytest.mark.parametrize("is_enabled", [True, False])
def test_config_is_that_of_zipkins_page(serve: Callable[..., Served], path: str, is_enabled: bool) -> None:
    """Zipkin's page reads here whether it may search."""
    answer = serve(store=schema.Store(search_enabled=is_enabled)).get(path)
    assert json.loads(answer.body) == {
        "environment": "",
        "queryLimit": 10,
        "defaultLookback": 900000,
        "searchEnabled": is_enabled,
        "logsUrl": None,
        "supportUrl": None,
        "archivePostUrl": None,
        "archiveUrl": None,
        "dependency": {"enabled": True, "lowErrorRate": 0.5, "highErrorRate": 0.75},
    }
    assert answer.headers["cache-control"] == "max-age=600"
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


def test_first_page_says_what_is_here(served: Served) -> None:
    """Without Zipkin's page / is a text that names the API; /info has the version."""
    assert "/api/v2/traces" in served.get("/").text
    assert "version" in json.loads(served.get("/info").body)["kaspan"]
    assert served.get("/zipkin/").status == 404


def test_dependencies_are_asked_for_their_window(served: Served) -> None:
    """The links of a window come as the reader gives them; a day is the default."""
    served.reader.links = [{"parent": "a", "child": "b", "callCount": 1}]
    assert json.loads(served.get("/api/v2/dependencies?endTs=172800000").body) == served.reader.links
    served.get("/api/v2/dependencies?endTs=9223372036854775807&lookback=9223372036854775807")
    assert served.reader.windows[0] == (172_800_000, 86_400_000)
    end_ts_ms, lookback_ms = served.reader.windows[1]
    assert end_ts_ms - lookback_ms >= 0
    assert end_ts_ms * 1000 < 2**63


def test_queries_run_in_threads_of_their_own(served: Served) -> None:
    """The event loop, which takes spans, never waits for the store."""
    for path in ("services", "spans?serviceName=a", "traces", "trace/1", "dependencies?endTs=1"):
        served.get(f"/api/v2/{path}")
    assert served.reader.threads
    assert all(name.startswith("query") for name in served.reader.threads)


@pytest.mark.parametrize("accepted", ["", "gzip"])
def test_large_trace_is_streamed(served: Served, accepted: str) -> None:
    """A large answer comes in chunks, in gzip if the client takes it, and leaves nothing open."""
    expected = served.store_large_trace()
    answer = served.get(f"/api/v2/trace/{'a' * 16}", accept_encoding=accepted)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers.get("content-encoding", "") == accepted
    body = gzip.decompress(answer.body) if accepted else answer.body
    assert body == expected
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")


def test_small_answer_is_whole_and_not_packed(served: Served) -> None:
    """What is smaller than 2 KiB has a length, and gzip would not make it smaller by much."""
    answer = served.get("/api/v2/services", accept_encoding="gzip")
    assert answer.headers["content-length"] == str(len(answer.body))
    assert "content-encoding" not in answer.headers


def test_query_over_a_limit_is_told_so(served: Served) -> None:
    """503 with the reader's text, which says what to narrow; it is counted."""
    served.reader.error = QueryLimitError("The query takes more than 11 seconds. Ask for less time")
    answer = served.get("/api/v2/traces")
    assert (answer.status, answer.text) == (503, "The query takes more than 11 seconds. Ask for less time")
    assert served.http.server.refusals["query limit"] == 1


def test_query_that_fails_is_500_and_the_next_one_is_answered(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the store ends no more than its query; the log has it."""
    served.reader.error = OSError("the disk is on fire")
    assert served.get("/api/v2/traces").status == 500
    served.reader.error = None
    assert served.get("/api/v2/services").status == 200
    assert "the disk is on fire" in caplog.text
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")


@pytest.mark.parametrize("error", [QueryLimitError("too many bytes"), OSError("the disk is on fire")])
def test_limit_in_the_middle_of_an_answer_cuts_it_off(
    served: Served, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a trace is never taken for a whole one, and the log says why it is cut off."""
    served.store_large_trace()
    served.reader.error, served.reader.error_after_portions = error, LARGE // 2 - 10
    with pytest.raises((EOFError, ConnectionError)):
        served.get(f"/api/v2/trace/{'a' * 16}")
    wait_until(lambda: "cut off" in caplog.text and str(error) in caplog.text, "the log")
    assert served.http.server.refusals["cut off"] == 1
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")


def test_too_many_queries_are_asked_to_wait(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound a query is answered at once: 503, with when to ask again. Others go on."""
    monkeypatch.setattr(query, "MAX_OPEN", 6)
    served.reader.may_go_on.clear()
    clients = [served.http.client() for _ in range(6)]
    for client in clients:
        client.send(b"GET /api/v2/services HTTP/1.1\r\nhost: a\r\n\r\n")
    wait_until(lambda: served.api._pool.open_queries == 6, "six queries")
    answer = served.get("/api/v2/services")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "6 queries" in answer.text
    assert served.http.server.refusals["query busy"] == 1
    assert served.reader.asked <= query.THREADS
    served.reader.may_go_on.set()
    assert [client.answer().status for client in clients] == [200] * 6
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")
    assert served.get("/api/v2/services").status == 200


def test_large_answers_have_a_bound_of_their_own(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not read large answers cannot fill the memory; small answers are not concerned."""
    monkeypatch.setattr(query, "MAX_LARGE", 3)
    served.store_large_trace()
    path = f"/api/v2/trace/{'a' * 16}"
    clients = [served.http.client() for _ in range(3)]
    for client in clients:
        client.send(f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        assert client.socket.recv(5) == b"HTTP/"
    answer = served.get(path)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert "3 large answers" in answer.text
    assert served.get("/api/v2/services").status == 200
    clients[0].close()
    wait_until(lambda: served.api._pool.large_queries == 2, "one is gone")
    assert served.get(path).status == 200
    for client in clients:
        client.close()
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")
    assert served.api._pool.large_queries == 0


def test_query_that_waits_too_long_is_not_begun(served: Served) -> None:
    """Who has waited for a thread as long as a query may take is told to ask again."""
    served.api._pool.clock_s = iter([0.0, query.MAX_WAIT_S + 1]).__next__
    answer = served.get("/api/v2/services")
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert served.reader.asked == 0


def test_query_whose_client_is_gone_is_not_begun(served: Served) -> None:
    """Queries that wait for a thread end with their clients."""
    served.reader.may_go_on.clear()
    clients = [served.http.client() for _ in range(query.THREADS + 3)]
    for client in clients:
        client.send(b"GET /api/v2/services HTTP/1.1\r\nhost: a\r\n\r\n")
    wait_until(lambda: served.reader.asked == query.THREADS, "all threads have a query")
    wait_until(lambda: served.api._pool.open_queries == len(clients), "the others wait")
    for client in clients:
        client.close()
    wait_until(lambda: served.http.server.count_connections() == 0, "the clients are gone")
    served.reader.may_go_on.set()
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")
    assert served.reader.asked == query.THREADS


def test_client_that_goes_away_ends_its_query(served: Served) -> None:
    """Nothing more of a trace is read for a client that has gone, and its reader is closed."""
    served.store_large_trace()
    client = served.http.client()
    client.send(f"GET /api/v2/trace/{'a' * 16} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert client.socket.recv(10)
    client.close()
    wait_until(lambda: served.reader.ended == 1, "the reader is closed")
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")


def test_what_a_query_holds_is_free_although_all_threads_are_busy(served: Served) -> None:
    """A large answer whose client has gone takes no memory until those before it in the queue are made."""
    served.store_large_trace()
    client = served.http.client()
    client.send(f"GET /api/v2/trace/{'a' * 16} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert client.socket.recv(5) == b"HTTP/"
    served.reader.may_go_on.clear()
    for _ in range(query.THREADS):
        served.http.client().send(b"GET /api/v2/services HTTP/1.1\r\nhost: a\r\n\r\n")
    wait_until(lambda: served.reader.asked == query.THREADS + 1, "all threads are busy")
    client.close()
    # Sooner than the reader lets go of the threads by itself.
    wait_until(lambda: served.reader.ended == 1, "the reader is closed", 10)
    wait_until(lambda: served.api._pool.large_queries == 0, "its place is free", 10)


def test_time_is_over_for_a_query_whose_client_is_gone(served: Served) -> None:
    """The reader looks at a clock, and so ends a search that nobody waits for; others have their time."""
    times: list[float] = []
    went = threading.Event()

    def search() -> list[str]:
        times.append(query.query_clock_s())
        assert went.wait(30)
        wait_until(lambda: query.query_clock_s() == float("inf"), "time is over")
        times.append(query.query_clock_s())
        return []

    served.reader.get_service_names = search  # type: ignore[method-assign]
    client = served.http.client()
    client.send(b"GET /api/v2/services HTTP/1.1\r\nhost: a\r\n\r\n")
    wait_until(lambda: len(times) == 1, "the search runs")
    client.close()
    went.set()
    wait_until(lambda: len(times) == 2, "the search ends")
    assert times[0] < times[1] == float("inf")
    assert served.get("/api/v2/spans?serviceName=a").status == 200
    assert query.query_clock_s() < float("inf")


def test_ended_query_is_not_resumed() -> None:
    """Its clock says that all time is over, so a reader that looked at it anew would never end."""
    pool = query.QueryPool()
    resumed: list[int] = []

    def make() -> Iterator[bytes]:
        for number in range(4):
            resumed.append(number)
            asked.is_closed = number == 2
            yield b"0" * query.FILL_BYTES  # so even that gzip has nothing to send yet

    async def ask() -> None:
        assert await asked.fill(may_pack=True) is None
        while await asked.read():
            pass

    asked = pool.begin(make)
    asyncio.run(ask())
    assert resumed == [0, 1, 2]


def test_slow_client_is_closed_and_holds_no_thread(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not read their answers keep nobody else from being answered, and end."""
    monkeypatch.setattr(server, "SWEEP_S", 0.02)
    served.store_large_trace()
    slow = [served.http.client() for _ in range(query.THREADS + 2)]
    for client in slow:
        client.send(f"GET /api/v2/trace/{'a' * 16} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        assert client.socket.recv(10)
    assert served.get("/api/v2/services").status == 200
    monkeypatch.setattr(body_writer, "STALL_S", 0.1)
    wait_until(lambda: served.http.server.refusals["stalled"] == len(slow), "they are closed", 30)
    wait_until(lambda: served.api._pool.open_queries == 0, "nothing is open")
