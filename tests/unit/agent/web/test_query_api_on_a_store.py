"""kaspan.agent.web.query_api over a span store on disk, while it is written."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kaspan.agent.web.query import query_clock_s
from kaspan.agent.web.query_api import QueryApi
from kaspan.config import schema
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import SpanStore, StoreSettings
from support.served_http import ServedHttp
from support.zipkin_answers import ANSWERS, AUTOCOMPLETE_KEYS, MATCHES, SPANS, TRACE_ID, WINDOW

LARGE_SPANS = 20_000


class Stored:
    """A query API over a store with the spans of the table of Zipkin's answers."""

    def __init__(self, directory: Path) -> None:
        settings = StoreSettings(str(directory / "store"), 1 << 30, 1e9, autocomplete_keys=AUTOCOMPLETE_KEYS)
        self.store = SpanStore(settings)
        self.write(SPANS[1:-1])
        self.reader = StoreReader(settings, clock_s=query_clock_s)
        agent = schema.Agent(store=schema.Store(autocomplete_keys=AUTOCOMPLETE_KEYS))
        self.api = QueryApi(self.reader, agent, time.time)
        self.http = ServedHttp(self.api.add_to)

    def write(self, spans: str) -> None:
        self.store.accept(spans.encode())
        self.store.commit()

    def ask(self, path: str) -> tuple[int, bytes]:
        answer = self.http.client().get(f"/api/v2/{path}")
        return answer.status, answer.body

    def close(self) -> None:
        self.http.stop()
        self.reader.close()
        self.store.close()


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Stored]:
    stored = Stored(tmp_path)
    yield stored
    stored.close()


def test_store_answers_as_zipkin_does(stored: Stored) -> None:
    """The whole table of Zipkin's answers, from spans on disk."""
    for path, expected in ANSWERS.items():
        status, body = stored.ask(path)
        assert status == expected.status, path
        assert (body.decode() if expected.json is None else json.loads(body)) == (
            expected.text if expected.json is None else expected.json
        ), path
    links = json.loads(stored.ask(f"dependencies?{WINDOW}")[1])
    assert {"parent": "frontend", "child": "backend", "callCount": 1} in links
    for parameters, is_found in MATCHES.items():
        traces = json.loads(stored.ask(f"traces?{WINDOW}&{parameters}")[1])
        assert [{span["traceId"] for span in trace} for trace in traces] == [{TRACE_ID}] * is_found, (
            parameters
        )


def test_large_trace_comes_whole_to_several_clients_while_spans_are_written(stored: Stored) -> None:
    """Any thread may read the next portion of a trace, and what is written meanwhile disturbs none."""
    span = '{{"traceId":"{trace}","id":"{id:x}","timestamp":{time},"tags":{{"a":"{text}"}}}}'
    start_us = 1_472_470_996_199_000
    for first in range(1, LARGE_SPANS, 5000):
        stored.write(
            ",".join(
                span.format(trace="b" * 16, id=number, time=start_us + number, text="x" * 300)
                for number in range(first, first + 5000)
            )
        )
    with ThreadPoolExecutor(6) as clients:
        answers = [clients.submit(stored.ask, f"trace/{'b' * 16}") for _ in range(6)]
        for number in range(20):
            stored.write(span.format(trace=f"{number + 1:x}", id=1, time=start_us, text=""))
    for answer in answers:
        status, body = answer.result()
        assert status == 200
        assert {span["id"] for span in json.loads(body)} == {f"{n:016x}" for n in range(1, LARGE_SPANS + 1)}
    assert json.loads(stored.ask("trace/14")[1])[0]["traceId"] == "0000000000000014"
