"""The table of answers to which kaspan's query API is held, against Zipkin itself."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from http.client import HTTPMessage

import pytest

from servers.zipkin import ZipkinServer
from support.waiting import wait_until
from support.zipkin_answers import ANSWERS, MATCHES, SPANS, TRACE_ID, WINDOW

ITS_OWN = ("services", "spans?", "remoteServices?", "traces", "autocomplete")
"""What depends on the spans of other tests, and on settings of this Zipkin."""


def ask(zipkin: ZipkinServer, query: str) -> tuple[int, HTTPMessage, str]:
    try:
        with urllib.request.urlopen(f"{zipkin.url}/api/v2/{query}", timeout=30) as answer:  # noqa: S310
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


@pytest.fixture
def filled_zipkin(zipkin: ZipkinServer) -> ZipkinServer:
    body = SPANS.encode()
    request = urllib.request.Request(f"{zipkin.url}/api/v2/spans", body, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        assert answer.status == 202
    wait_until(lambda: len(zipkin.trace(TRACE_ID)) == 3, "the spans are there")
    return zipkin


@pytest.mark.servers
def test_zipkin_answers_as_the_table_says(filled_zipkin: ZipkinServer) -> None:
    """Status, text and cache header of every query of the table are Zipkin's own, and so are names."""
    for query, expected in ANSWERS.items():
        status, headers, body = ask(filled_zipkin, query)
        assert status == expected.status, query
        if expected.json is None:
            assert body == expected.text, query
        elif not query.startswith(("services", "traces", "autocomplete")):
            assert json.loads(body) == expected.json, query
        if not query.startswith(ITS_OWN):
            assert headers.get("cache-control", "") == expected.cache, query
    for query, is_found in MATCHES.items():
        body = ask(filled_zipkin, f"traces?{WINDOW}&{query}")[2]
        assert (f'"traceId":"{TRACE_ID}"' in body) is is_found, query
