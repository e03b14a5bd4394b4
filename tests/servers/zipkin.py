"""Zipkin with its in-memory storage, and the questions that tests ask of it."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.jars import Jars
from servers.process import ServerProcess, free_port
from support.waiting import TooLateError, wait_until

Span = dict[str, Any]
"""One span as Zipkin's API gives it: the members of the v2 JSON span."""

DAY_MS = 86_400_000
MAX_TRACES = 1_000_000
ANSWER_TIMEOUT_S = 30


@dataclass(frozen=True)
class StorageSettings:
    """What the storage of a Zipkin is told: STRICT_TRACE_ID, SEARCH_ENABLED and AUTOCOMPLETE_KEYS."""

    strict_trace_id: bool = True
    search_enabled: bool = True
    autocomplete_keys: tuple[str, ...] = ()


DEFAULT_STORAGE = StorageSettings()


class ZipkinServer(ServerProcess):
    """Zipkin on a free port of the loopback interface; `restart` forgets every span, as its storage does.

    `url` is its base, http://HOST:PORT. With `kafka`, HOST:PORT of a broker, it also reads the topic zipkin.
    """

    def __init__(
        self, jars: Jars, directory: Path, kafka: str = "", storage: StorageSettings = DEFAULT_STORAGE
    ) -> None:
        super().__init__(directory)
        self._jars = jars
        self._kafka = kafka
        self._storage = storage
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [
            self._jars.java,
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-jar",
            str(self._jars.zipkin_jar),
            "--armeria.ports[0].ip=127.0.0.1",
            f"--armeria.ports[0].port={self.port}",
            "--armeria.ports[0].protocols[0]=http",
        ]

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "STORAGE_TYPE": "mem",
            "KAFKA_BOOTSTRAP_SERVERS": self._kafka,
            "STRICT_TRACE_ID": str(self._storage.strict_trace_id).lower(),
            "SEARCH_ENABLED": str(self._storage.search_enabled).lower(),
            "AUTOCOMPLETE_KEYS": ",".join(self._storage.autocomplete_keys),
        }

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
                return bool(answer.status == http.HTTPStatus.OK)
        except (OSError, http.client.HTTPException):
            return False

    def trace(self, trace_id: str) -> list[Span]:
        """Return the spans of one trace, none when Zipkin does not know it."""
        try:
            spans: list[Span] = self._get(f"/api/v2/trace/{trace_id}")
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.NOT_FOUND:
                return []
            raise
        return spans

    def traces(self, service: str) -> list[list[Span]]:
        """Return every trace of the last day in which the service took part, each a list of spans."""
        traces: list[list[Span]] = self._get(
            "/api/v2/traces", serviceName=service, lookback=DAY_MS, limit=MAX_TRACES
        )
        return traces

    def all_traces(self) -> list[list[Span]]:
        """Return every trace of the last day, each a list of spans."""
        traces: list[list[Span]] = self._get("/api/v2/traces", lookback=DAY_MS, limit=MAX_TRACES)
        return traces

    def spans(self, service: str) -> list[Span]:
        """Return every span of the last day that the service itself reported."""
        return [
            span
            for trace in self.traces(service)
            for span in trace
            if span.get("localEndpoint", {}).get("serviceName") == service
        ]

    def dependencies(self) -> dict[tuple[str, str], int]:
        """Return how many calls of the last day each link counts: {(parent, child): calls}."""
        end_ms = 4102444800000  # the year 2100: spans stamped ahead of this machine's clock count as well
        links = self._get("/api/v2/dependencies", endTs=end_ms, lookback=end_ms)
        return {(link["parent"], link["child"]): link["callCount"] for link in links}

    def wait_for_spans(self, service: str, count: int, deadline_s: float = 30.0) -> list[Span]:
        """Block until at least `count` spans of the service are there, and return all there are.

        Raises:
            TooLateError: there are fewer after `deadline_s` seconds; the message says how many.
        """
        found: list[Span] = []

        def all_there() -> bool:
            found[:] = self.spans(service)
            return len(found) >= count

        try:
            wait_until(all_there, f"{count} spans of {service} are in Zipkin", deadline_s)
        except TooLateError:
            raise TooLateError(
                f"{len(found)} of {count} spans of {service} are in Zipkin after {deadline_s:g} s"
            ) from None
        return found

    def _get(self, path: str, **query: object) -> Any:
        url = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310
            return json.load(answer)
