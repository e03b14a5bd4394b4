"""`kaspan traces` and `kaspan trace` as a user runs them: on a store in use, on its server, and on Zipkin."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from servers import ZipkinServer
from support.deployment import KASPAN, Deployment
from support.span_server import SpanServer
from support.stored_spans import span
from support.waiting import wait_until

pytestmark = pytest.mark.processes

DEADLINE_S = 60
NOW_US = time.time_ns() // 1000
LARGE, SMALL = 0xFEED << 96 | NOW_US, 0xBEEF << 96 | NOW_US + 1
TOPIC = f"topic-{NOW_US}"
"""Another one in each run: other tests use the same Zipkin."""


def send_and_process(number: int, trace_id: int, error: str = "") -> list[bytes]:
    """Return the spans of a record that waits for 3 ms; the small trace is newer."""
    start_us = NOW_US if trace_id == LARGE else NOW_US + 1_000_000
    times = {"kind": "PRODUCER", "name": "send orders", "timestamp": start_us, "duration": 2000}
    tags = {"kafka.topic": TOPIC} | ({"error": error} if error else {})
    process = {
        "kind": "CONSUMER",
        "name": "process orders",
        "timestamp": start_us + 5000,
        "duration": 9000 + number,
    }
    parent = {"parentId": f"{2 * number:016x}", "localEndpoint": {"serviceName": "shipping"}, "tags": tags}
    return [span(2 * number, trace_id, **times), span(2 * number + 1, trace_id, **process, **parent)]


SPANS = [
    *send_and_process(1, SMALL, "no\x1b[2J room"),
    *(one for number in range(2, 1002) for one in send_and_process(number, LARGE)),
]


def kaspan(*arguments: str | Path, columns: int = 100) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("KASPAN_")}
    return subprocess.run(
        [KASPAN, *arguments],
        env={**environment, "COLUMNS": str(columns)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )


def printed(*arguments: str | Path) -> str:
    done = kaspan(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture
def server(deployment: Deployment) -> SpanServer:
    """A server that has taken all spans, and writes on."""
    server = SpanServer(deployment)
    assert server.post(*SPANS) == 202
    wait_until(
        lambda: kaspan("trace", f"{SMALL:032x}", "--store", server.store).returncode == 0,
        "the spans are there",
    )
    return server


def test_store_that_is_written_and_its_server_show_the_same(server: SpanServer) -> None:
    """The directory and the API of one store, for both commands and for programs."""
    url = "http://{}:{}".format(*server.address)
    for arguments in (
        ["traces"],
        ["traces", "--json"],
        ["traces", "--longest", "--limit", "1"],
        ["traces", "--topic", TOPIC, "--errors"],
        ["trace", f"{SMALL:032x}"],
        ["trace", f"{LARGE:032X}"],
        ["trace", f"{LARGE:032x}", "--all"],
    ):
        assert printed(*arguments, "--store", server.store) == printed(*arguments, "--zipkin", url)


def test_large_trace_is_a_few_lines_on_request_all(server: SpanServer) -> None:
    """A thousand records are folded, and every one is there with --all."""
    short = printed("trace", f"{LARGE:032x}", "--store", server.store).splitlines()
    whole = printed("trace", f"{LARGE:032x}", "--all", "--store", server.store).splitlines()

    assert len(short) == 2 + 2 + 1
    assert "1000 x process orders" in short[3]
    assert "3.0 ms  9.0-10.0 ms" in short[3]
    assert len(whole) == 2 + 2000
    assert max(map(len, whole)) <= 100


def test_terminal_gets_colours_and_no_characters_of_a_span(server: SpanServer) -> None:
    """On a terminal the escape sequences are kaspan's own: colours, and nothing else."""
    main, terminal = pty.openpty()
    command = [str(word) for word in (KASPAN, "trace", f"{SMALL:032x}", "--store", server.store)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=terminal, env=environment) as process:
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(main, 1 << 16):
                shown += piece
        except OSError:
            pass  # Linux ends a terminal with EIO
        os.close(main)
    text = shown.decode()

    assert process.returncode == 0
    assert "\x1b[31merror: no [2J room\x1b[0m" in text
    assert {part.partition("m")[0] for part in text.split("\x1b[")[1:]} <= {"0", "1", "2", "31", "35", "36"}


def test_zipkin_and_a_store_show_the_same(zipkin: ZipkinServer, server: SpanServer) -> None:
    """Fed the same spans; and JSON of one trace copies it into Zipkin."""
    copied = printed("trace", f"{SMALL:032x}", "--json", "--store", server.store)
    rest = [one for one in SPANS if json.loads(one)["traceId"] == f"{LARGE:032x}"]
    for body in (copied.encode(), b"[" + b",".join(rest) + b"]"):
        address = f"{zipkin.url}/api/v2/spans"
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:  # noqa: S310
            assert answer.status == 202
    wait_until(lambda: len(zipkin.trace(f"{LARGE:032x}")) == 2000, "the spans are there")
    wait_until(lambda: len(zipkin.trace(f"{SMALL:032x}")) == 2, "the copied trace is there")
    for arguments in (
        ["traces", "--topic", TOPIC],
        ["traces", "--topic", TOPIC, "--longest"],
        ["traces", "--topic", TOPIC, "--errors"],
        ["trace", f"{SMALL:032x}"],
        ["trace", f"{LARGE:032x}"],
    ):
        assert printed(*arguments, "--store", server.store) == printed(*arguments, "--zipkin", zipkin.url)
    missing = kaspan("trace", "dead", "--zipkin", zipkin.url)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "has no trace dead" in missing.stderr
