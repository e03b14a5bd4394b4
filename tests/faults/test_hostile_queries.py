"""An agent with a store, among clients that ask and mean harm: what they cost it and others is bounded."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from support.deployment import Deployment
from support.load import LOST_ANSWER
from support.raw_http import RawHttpClient, request
from support.span_server import SpanServer
from support.waiting import wait_until

FUZZED = int(os.environ.get("KASPAN_TEST_FUZZED_REQUESTS", "400"))
"""More on demand: the variable is for a long run by hand."""
SEED = int(os.environ.get("KASPAN_TEST_SEED", "5"))
LARGE_SPANS = 30_000
"""Spans of a trace of some 17 MB: more than any socket keeps."""
READERS = 40
READERS_MB = 350
"""What READERS of the large trace may cost: four threads and some large answers; the others get 503."""
TRACE_ID = "ab" * 16
PIECES = (
    *("serviceName", "spanName", "annotationQuery", "minDuration", "limit", "endTs", "lookback", "key"),
    *("order", "longest", "=", "&", "%", "%zz", "%00", "+", "%20and%20", "0", "-1", "1" * 30, "%ff", ";"),
    *("error", "," * 50),
)
PATHS = (
    *("services", "spans", "remoteServices", "traces", "traceMany", "dependencies", "autocompleteValues"),
    *("trace/", "trace/1", "trace/" + "f" * 32, "trace/%20", "../../etc/passwd", "trace" + "/" * 9),
)


def span(trace_id: str, number: int) -> bytes:
    return (
        b'{"traceId":"%s","id":"%016x","name":"send","timestamp":%d,"duration":%d,"localEndpoint":'
        b'{"serviceName":"orders"},"tags":{"kafka.topic":"paid","text":"%s"}}'
        % (trace_id.encode(), number, time.time_ns() // 1000, number, b"x" * 400)
    )


def memory_mb(server: SpanServer, what: str) -> float:
    status = Path(f"/proc/{server.running.process.pid}/status").read_text()
    return int(status.partition(what)[2].split()[0]) / 1024


@pytest.fixture
def server(deployment: Deployment) -> SpanServer:
    """Give a server that has a large trace."""
    server = SpanServer(deployment)
    for first in range(1, LARGE_SPANS, 3000):
        assert server.post(*(span(TRACE_ID, number) for number in range(first, first + 3000))) == 202

    def is_stored() -> bool:
        return server.get(f"/api/v2/trace/{TRACE_ID}").body.count(b'"id"') == LARGE_SPANS

    wait_until(is_stored, "the trace", 60)
    return server


def end(server: SpanServer) -> None:
    assert server.running.terminate() == 0, server.running.stderr
    assert "Traceback" not in server.running.stderr


def test_readers_that_do_not_read_cost_little_and_keep_nobody_waiting(server: SpanServer) -> None:
    """Clients that ask for a large trace and read nothing: spans are taken, queries answered, memory stays.

    And when they have gone, a large trace is answered again.
    """
    Path(f"/proc/{server.running.process.pid}/clear_refs").write_text("5")
    before_mb = memory_mb(server, "VmRSS:")
    readers = [socket.create_connection(server.address) for _ in range(READERS)]
    for reader in readers:
        reader.sendall(f"GET /api/v2/trace/{TRACE_ID} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    for number in range(20):
        assert server.post(span("1", number + 1)) == 202
    wait_until(lambda: server.get("/api/v2/services").body == b'["orders"]', "other queries", 60)
    cost_mb = memory_mb(server, "VmHWM:") - before_mb
    print(f"{READERS} readers: {cost_mb:.0f} MB")
    for reader in readers:
        reader.close()
    wait_until(lambda: server.get(f"/api/v2/trace/{TRACE_ID}").status == 200, "a large trace", 60)
    end(server)
    assert cost_mb < READERS_MB


def test_server_stops_while_a_large_answer_waits_for_its_client(server: SpanServer) -> None:
    """Exit code 0, whatever clients do not read."""
    readers = [socket.create_connection(server.address) for _ in range(6)]
    for reader in readers:
        reader.sendall(f"GET /api/v2/trace/{TRACE_ID} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    assert readers[0].recv(5) == b"HTTP/"
    end(server)
    for reader in readers:
        reader.close()


def test_any_query_is_answered_and_ends_nothing(deployment: Deployment) -> None:
    """Paths, query strings and headers at random, some cut off: what comes whole is answered as the API
    answers, and the server goes on.
    """
    server = SpanServer(deployment)
    assert server.post(*(span("1", number) for number in range(1, 100))) == 202
    wait_until(lambda: server.get("/api/v2/trace/1").status == 200, "the trace")
    rng = random.Random(SEED)
    statuses: dict[int, int] = {}
    for _ in range(FUZZED):
        client = RawHttpClient(server.address)
        with contextlib.suppress(*LOST_ANSWER, EOFError):
            for _ in range(rng.choice((1, 1, 3))):
                query = "".join(rng.choice(PIECES) for _ in range(rng.randrange(12)))
                path = f"/api/v2/{rng.choice(PATHS)}?{query if rng.random() < 0.7 else quote(query)}"
                headers = rng.choice(({}, {"accept_encoding": "gzip"}, {"range": "bytes=0-1"}))
                raw = request(b"", path, rng.choice(("GET", "GET", "GET", "HEAD", "POST")), **headers)
                is_whole = rng.random() < 0.8
                client.send(raw if is_whole else raw[: rng.randrange(len(raw))])
                if not is_whole or rng.random() < 0.3:
                    break  # without waiting for an answer
                status = client.answer(without_body=raw.startswith(b"HEAD")).status
                statuses[status] = statuses.get(status, 0) + 1
        client.close()
    print(dict(sorted(statuses.items())))
    assert set(statuses) <= {200, 202, 400, 404, 405, 503}
    assert statuses[200]
    assert statuses[400]
    assert server.post(span("2", 1)) == 202
    wait_until(lambda: server.get("/api/v2/trace/2").status == 200, "the span")
    end(server)


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    ],
)
def test_page_elsewhere_reads_nothing_of_a_server(deployment: Deployment, headers: dict[str, str]) -> None:
    """No name that leads to this machine, and no page elsewhere, gets anything of the store or the agent."""
    server = SpanServer(deployment)
    for path in ("/api/v2/services", "/zipkin/api/v2/traces", "/config.json", "/status", "/metrics", "/"):
        answer = server.get(path, **{"host": "localhost", **headers})
        assert (answer.status, "access-control-allow-origin" in answer.headers) == (403, False)
    end(server)
