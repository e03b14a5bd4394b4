"""kaspan's answers to queries beside a real Zipkin's, which got the same spans."""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from servers import Servers, ZipkinServer, fetch_jars
from servers.kaspan import KaspanServer
from servers.zipkin import StorageSettings
from support.deployment import KASPAN, Deployment
from support.generated_queries import AUTOCOMPLETE_KEYS, Query, Vocabulary, query
from support.generated_traces import drawn, odd_spans, time_to_tell_from, trace
from support.query_answers import Answer, Asked, difference
from support.span_bodies import BODIES, JSON, TRACE_ID, Body
from support.span_reporters import REPORTERS, Report, Target
from support.zipkin_stub import ZipkinStub

QUERIES = int(os.environ.get("KASPAN_TEST_QUERIES", "400"))
"""How many are asked of the servers with the usual settings; a fifth of that of those with others."""
SEED = int(os.environ.get("KASPAN_TEST_SEED", "1"))
"""Another number draws other spans and other queries."""
TRACES, ODD_SPANS, SPANS_A_BODY = 700, 300, 50
SHOWN_DIFFERENCES = 25
# Java and Python put different numbers of U+FFFD where these bytes are.
NOT_TEXT = "UTF-8 of a surrogate"
SETTINGS = {
    "strict": StorageSettings(autocomplete_keys=AUTOCOMPLETE_KEYS),
    "lenient": StorageSettings(strict_trace_id=False),
    "without search": StorageSettings(search_enabled=False, autocomplete_keys=AUTOCOMPLETE_KEYS),
}
Span = dict[str, Any]


class Pair(NamedTuple):
    """A Zipkin and a kaspan with the same settings and the same spans."""

    zipkin: ZipkinServer
    kaspan: KaspanServer


class Fed(NamedTuple):
    """The pairs, by the names of their settings, and what their spans say."""

    pairs: dict[str, Pair]
    vocabulary: Vocabulary
    spans: list[Span]


@pytest.fixture(scope="module")
def fed(started_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fed]:
    """Give pairs of servers that have got the same spans."""
    pairs = {name: _pair(settings, tmp_path_factory.mktemp("pair")) for name, settings in SETTINGS.items()}
    try:
        for server in (server for pair in pairs.values() for server in pair):
            server.start()
        for server in (server for pair in pairs.values() for server in pair):
            server.wait_until_ready()
        bodies = _generated_bodies(time_to_tell_from(int(time.time() * 1000))) + list(_reported_bodies())
        bodies.append(_body_of_the_demo(pairs["strict"].zipkin, tmp_path_factory.mktemp("demo")))
        spans = [span for body in bodies for span in _accepted_spans(body, pairs)]
        for edge in (body for name, body in BODIES.items() if body.accepted and name != NOT_TEXT):
            trace_id = uuid.uuid4().hex
            content = edge.content.replace(TRACE_ID.encode(), trace_id.encode())
            content = content.replace(bytes.fromhex(TRACE_ID), bytes.fromhex(trace_id))
            assert _post(edge._replace(content=content), pairs)
        for pair in pairs.values():
            pair.kaspan.wait_until_stored()
        yield Fed(pairs, Vocabulary.of(spans), spans)
    finally:
        for server in (server for pair in pairs.values() for server in pair):
            server.stop()


def _pair(settings: StorageSettings, directory: Path) -> Pair:
    for name in ("zipkin", "kaspan"):
        (directory / name).mkdir()
    return Pair(
        ZipkinServer(fetch_jars(), directory / "zipkin", storage=settings),
        KaspanServer(directory / "kaspan", settings),
    )


def _generated_bodies(now_ms: int) -> list[Body]:
    rng = random.Random(SEED)
    spans = [span for _ in range(TRACES) for span in trace(rng, now_ms)]
    many = [spans[at : at + SPANS_A_BODY] for at in range(0, len(spans), SPANS_A_BODY)]
    odd = drawn(odd_spans(now_ms), ODD_SPANS, SEED)
    for span in (span for spans in odd for span in spans):
        digits = len(span["traceId"])
        span["traceId"] = f"{rng.getrandbits(4 * digits):0{digits}x}"  # each a trace of its own
    return [Body(json.dumps(spans).encode(), True) for spans in (*many, *odd)]


def _reported_bodies() -> Iterator[Body]:
    """Give what tracers of others report."""
    with ThreadPoolExecutor(2) as pool:
        for bodies in pool.map(_reported, REPORTERS.items()):
            yield from bodies


def _reported(reporter: tuple[str, Report]) -> list[Body]:
    name, report = reporter
    stub = ZipkinStub()
    try:
        report(stub.url, f"reported by {name}")
        headers = [{key.lower(): value for key, value in got.headers.items()} for got in stub.reports]
        return [
            Body(got.body, True, header["content-type"], header.get("content-encoding", ""))
            for got, header in zip(stub.reports, headers, strict=True)
        ]
    finally:
        stub.close()


def _body_of_the_demo(zipkin: ZipkinServer, directory: Path) -> Body:
    """Run the demo on a Zipkin, and return the spans that it has got."""
    demo = Deployment(directory).start("demo", KASPAN, "demo", "--zipkin", zipkin.url)
    demo.finish()
    spans = [span for found in zipkin.traces("orders") + zipkin.traces("mailer") for span in found]
    own = {"orders", "shipping", "mailer"}
    ours = [span for span in spans if span.get("localEndpoint", {}).get("serviceName") in own]
    assert any("kafka.topic" in span["tags"] for span in ours if "tags" in span), ours
    return Body(json.dumps(ours).encode(), True)


def _accepted_spans(body: Body, pairs: dict[str, Pair]) -> list[Span]:
    """Post a body to every server, and return its spans as far as queries need to know them."""
    if not _post(body, pairs) or body.content_type != JSON or body.content_encoding:
        return []
    spans: list[Span] = json.loads(body.content)
    return spans


def _post(body: Body, pairs: dict[str, Pair]) -> bool:
    """Post a body to every server: all take it, or none."""
    answers = {Target(server.url).post(body) == 202 for pair in pairs.values() for server in pair}
    assert len(answers) == 1, body
    return answers == {True}


@pytest.mark.parametrize("settings", SETTINGS)
def test_kaspan_answers_as_zipkin(fed: Fed, settings: str) -> None:
    """Zipkin and kaspan give the same answer to the same query: status, headers, and body."""
    count = QUERIES if settings == "strict" else QUERIES // 5
    rng = random.Random(f"{settings} {SEED}")
    zipkin, kaspan = (Asked(server.url) for server in fed.pairs[settings])
    for server in (zipkin, kaspan):
        # They count services when they are asked for them, for the Cache-Control of other names.
        server.ask(Query("/api/v2/services"))
    found: dict[str, list[str]] = {}
    answered: Counter[str] = Counter()
    for one in (query(rng, fed.vocabulary) for _ in range(count)):
        expected = zipkin.ask(one)
        answered[_endpoint(one)] += expected.status == 200 and expected.body not in (b"[]", b"")
        wrong = difference(one, expected, kaspan.ask(one))
        if wrong:
            found.setdefault(_endpoint(one), []).append(f"{one.method} {one.target}\n    {wrong}")
    shown = [text for texts in found.values() for text in texts[:SHOWN_DIFFERENCES]]
    counts = {endpoint: len(texts) for endpoint, texts in found.items()}
    assert not found, f"{counts} of {count} queries differ:\n" + "\n".join(shown)
    if settings != "without search":
        assert answered["traces"] > count / 8, answered


def _endpoint(one: Query) -> str:
    return urlsplit(one.target).path.removeprefix("/zipkin").removeprefix("/api/v2/").partition("/")[0]


def test_comparison_sees_a_difference() -> None:
    """What is compared above is not made equal by the comparing."""
    traces = [[{"traceId": "0" * 15 + "1", "id": "a"}, {"traceId": "0" * 15 + "1", "id": "b"}]]
    traces.append([{"traceId": "0" * 15 + "2", "id": "c"}])
    search, names = Query("/zipkin/api/v2/traces?limit=2"), Query("/api/v2/services")

    def answer(content: object, status: int = 200, **headers: str) -> Answer:
        return Answer(status, headers, json.dumps(content).encode())

    assert not difference(search, answer(traces), answer([traces[0][::-1], traces[1]]))
    assert difference(search, answer(traces), answer(traces[::-1]))
    assert difference(search, answer(traces), answer([traces[0][:1], traces[1]]))
    assert difference(search, answer(traces), answer([[traces[0][0]] * 2, traces[1]]))
    assert difference(search, answer(traces), answer(traces[:1]))
    assert difference(names, answer(["a", "b"]), answer(["b", "a"]))
    assert difference(names, answer([]), answer([], cache="max-age=300"))
    assert difference(names, answer("limit <= 0", 400), answer("limit <= 1", 400))
    assert difference(names, answer([]), answer([], 404))
