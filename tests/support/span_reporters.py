"""Tracers of others, each of which reports two spans of one trace to a Zipkin, as a user's service would."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from opentelemetry.exporter.zipkin.json import ZipkinExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from py_zipkin import Encoding, Kind
from py_zipkin.transport import BaseTransportHandler
from py_zipkin.zipkin import zipkin_span

from kaspan.wire.span import SPANS_PATH
from servers import fetch_jars
from support.span_bodies import JSON, PROTO3, Body

Report = Callable[[str, str], str]
"""Reports to the Zipkin at a base URL, as a service of that name, and returns the trace's id."""

SERVERS = Path(__file__).parents[1] / "servers"
REPORT_TIMEOUT_S = 300
"""The first time, Go compiles its standard library."""


class Target:
    """Something that takes spans by HTTP, over one connection."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def post(self, body: Body) -> int:
        """Post one body, and return the status of the answer."""
        self._connection.putrequest("POST", SPANS_PATH, skip_accept_encoding=True)
        for name, value in {**body.headers, "Content-Length": str(len(body.content))}.items():
            self._connection.putheader(name, value)
        self._connection.endheaders(body.content)
        answer = self._connection.getresponse()
        answer.read()
        return answer.status


class PyZipkinTransport(BaseTransportHandler):
    """py_zipkin leaves sending to its user: with the content type of its encoding."""

    def __init__(self, target: Target, content_type: str) -> None:
        self._target = target
        self._content_type = content_type

    def get_max_payload_bytes(self) -> int | None:
        return None

    def send(self, payload: bytes | str) -> None:
        content = payload.encode() if isinstance(payload, str) else payload
        assert self._target.post(Body(content, True, self._content_type)) == 202


def by_py_zipkin(encoding: Encoding, content_type: str) -> Report:
    """Report by Yelp's library, in one of its encodings."""

    def report(url: str, service: str) -> str:
        transport = PyZipkinTransport(Target(url), content_type)
        with zipkin_span(
            service_name=service,
            span_name="GET /orders",
            transport_handler=transport,
            sample_rate=100,
            encoding=encoding,
            kind=Kind.SERVER,
            binary_annotations={"http.path": "/orders", "error": "timeout of 5 s"},
            use_128bit_trace_id=True,
        ) as root:
            with zipkin_span(service_name=service, span_name="query", kind=Kind.CLIENT) as query:
                query.add_sa_binary_annotation(3306, "mysql", "10.0.0.5")
                query.add_annotation("retry", 1_700_000_000.5)
            trace_id: str = root.zipkin_attrs.trace_id
        return trace_id

    return report


def by_opentelemetry(url: str, service: str) -> str:
    """Report by OpenTelemetry's SDK and its exporter, which knows of nothing but a Zipkin."""
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(SimpleSpanProcessor(ZipkinExporter(endpoint=url + SPANS_PATH)))
    tracer = provider.get_tracer("tests")
    with tracer.start_as_current_span("GET /orders", kind=SpanKind.SERVER) as root:
        with tracer.start_as_current_span("query", kind=SpanKind.CLIENT) as query:
            query.set_attribute("db.rows", 3)
            query.add_event("retry", {"attempt": 2})
        root.set_status(StatusCode.ERROR, "timeout of 5 s")
    provider.shutdown()
    return f"{root.get_span_context().trace_id:032x}"


def by_brave(url: str, service: str) -> str:
    """Report by Brave, Zipkin's own library for Java, in a process of its own."""
    jars = fetch_jars()
    script = str(SERVERS / "report.groovy")
    command = [jars.java, "-cp", jars.brave_class_path, "groovy.ui.GroovyMain", script]
    return _said(command, url, service)


def by_zipkin_go(url: str, service: str) -> str:
    """Report by zipkin-go, Zipkin's own library for Go; skips the test where there is no Go."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no `go` on PATH (Debian: apt install golang-go)")
    return _said([go, "run", "."], url, service, SERVERS / "report_go")


def _said(command: list[str], url: str, service: str, folder: Path = SERVERS) -> str:
    ran = subprocess.run(
        [*command, url + SPANS_PATH, service],
        cwd=folder,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
        timeout=REPORT_TIMEOUT_S,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


REPORTERS: dict[str, Report] = {
    "py_zipkin, JSON": by_py_zipkin(Encoding.V2_JSON, JSON),
    "py_zipkin, proto3": by_py_zipkin(Encoding.V2_PROTO3, PROTO3),
    "OpenTelemetry": by_opentelemetry,
    "Brave": by_brave,
    "zipkin-go": by_zipkin_go,
}
