"""Zipkin's own page, Lens, and Grafana's Zipkin data source on `kaspan server`."""

from __future__ import annotations

import io
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import Servers, ServersMissingError, fetch_jars
from servers.browser import Page, start_browser
from servers.kaspan import KaspanServer
from support.deployment import KASPAN, Deployment

ANSWER_TIMEOUT_S = 30


@pytest.fixture(scope="module")
def server(started_servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KaspanServer]:
    """Give a kaspan that serves Lens, with the traces of the demo."""
    directory = tmp_path_factory.mktemp("lens")
    server = KaspanServer(directory, KASPAN_AGENT__WEB__LENS=str(extract_lens(directory)))
    try:
        server.start()
        server.wait_until_ready()
        Deployment(directory).start("demo", KASPAN, "demo", "--zipkin", server.url).finish()
        server.wait_until_stored()
        yield server
    finally:
        server.stop()


def extract_lens(directory: Path) -> Path:
    """Return the jar of Lens, taken out of the jar of Zipkin's server."""
    with zipfile.ZipFile(fetch_jars().zipkin_jar) as jar:
        (name,) = (name for name in jar.namelist() if "/zipkin-lens-" in name)
        path = directory / "zipkin-lens.jar"
        path.write_bytes(jar.read(name))
    assert zipfile.is_zipfile(io.BytesIO(path.read_bytes()))
    return path


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """Give a browser's page."""
    try:
        browser = start_browser(tmp_path / "profile")
    except ServersMissingError as missing:
        if os.environ.get("CI") == "true":
            pytest.fail(str(missing), pytrace=False)
        pytest.skip(str(missing))
    yield Page(browser)
    browser.quit()


def ask(server: KaspanServer, path: str, **query: object) -> Any:
    url = f"{server.url}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
        return json.load(answer)


def test_lens_finds_and_shows_traces_and_links(server: KaspanServer, page: Page) -> None:
    """A person finds the demo's traces, opens one, and sees who called whom; the console has no error."""
    page.open(f"{server.url}/zipkin/?serviceName=orders&lookback=15m&limit=10")
    page.click("Run Query")
    page.wait_for("Results", "orders: send orders", "ms")
    trace_id = ask(server, "/api/v2/traces", serviceName="mailer")[0][0]["traceId"]
    page.open(f"{server.url}/zipkin/traces/{trace_id}")
    page.wait_for(trace_id, "orders: send orders", "shipping: process orders", "mailer: process shipments")
    page.open(f"{server.url}/zipkin/dependency")
    page.click("Run Query")
    page.wait_for_element(".vizceral canvas")
    assert page.complaints() == []


def test_root_leads_to_lens(server: KaspanServer, page: Page) -> None:
    """The address of the server alone leads to the page."""
    page.open(server.url)
    page.wait_for("Find a trace", "Search Traces")
    assert page.complaints() == []


def test_grafana_finds_what_it_needs(server: KaspanServer) -> None:
    """The requests of Grafana's Zipkin data source have answers of the form that it reads."""
    # Source: pkg/tsdb/zipkin/client.go, and public/app/plugins/datasource/zipkin/datasource.ts of Grafana 11.
    services = ask(server, "/api/v2/services")
    assert {"orders", "shipping", "mailer"} <= set(services)
    spans = ask(server, "/api/v2/spans", serviceName="orders")
    assert "send orders" in spans
    now_ms = int(time.time() * 1000)
    traces = ask(
        server,
        "/api/v2/traces",
        serviceName="orders",
        spanName="send orders",
        endTs=now_ms,
        lookback=3_600_000,
        limit=10,
    )
    assert len(traces) == 3
    trace = ask(server, f"/api/v2/trace/{traces[0][0]['traceId']}")
    for span in trace:
        assert {"traceId", "id", "name", "timestamp", "duration", "localEndpoint"} <= span.keys()
        assert isinstance(span["timestamp"], int)
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server, "/api/v2/trace/0000000000000001")
    assert refused.value.code == 404
