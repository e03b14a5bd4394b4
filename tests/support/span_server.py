"""`kaspan server` as a user runs it, and what is in its store afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kaspan.config import schema
from kaspan.store.reader import StoreReader
from kaspan.store.span_store import StoreSettings
from support.deployment import KASPAN, Deployment
from support.process import RunningProcess
from support.raw_http import RawHttpClient, Response
from support.waiting import wait_until

_AT_ONCE = 1000
"""How many traces are looked up together: they are in the same blocks."""


class SpanServer:
    """A `kaspan server` on a free port, with its store in `store`."""

    def __init__(
        self, deployment: Deployment, *arguments: str, store: Path | None = None, **variables: str
    ) -> None:
        self.store = store or deployment.directory / "store"
        listen = () if "--listen" in arguments else ("--listen", "127.0.0.1:0")
        self.running: RunningProcess = deployment.start(
            "server", KASPAN, "server", *listen, "--store", str(self.store), *arguments, **variables
        )

    def wait_until_ready(self) -> None:
        """Block until it listens; fails if it has ended."""
        wait_until(self.is_ready, "the server's start", every_s=0.01)

    def is_ready(self) -> bool:
        assert self.running.is_running(), self.running.stderr
        return "listens on" in self.running.stderr

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, as its log says."""
        self.wait_until_ready()
        found = re.search(r"listens on https?://127\.0\.0\.1:(\d+)", self.running.stderr)
        assert found is not None, self.running.stderr
        return "127.0.0.1", int(found[1])

    def get(self, path: str, **headers: str) -> Response:
        client = RawHttpClient(self.address)
        try:
            return client.get(path, **headers)
        finally:
            client.close()

    def post(self, *spans: bytes) -> int:
        """Report spans; returns the answer's status."""
        client = RawHttpClient(self.address)
        try:
            return client.post(b"[" + b",".join(spans) + b"]").status
        finally:
            client.close()

    def status(self) -> Any:
        return json.loads(self.get("/status").body)

    def health(self) -> tuple[int, Any]:
        answer = self.get("/health")
        return answer.status, json.loads(answer.body)


def missing_traces(store: Path, trace_ids: Iterable[str]) -> list[str]:
    """Look up each trace by its id in a store that nobody writes; return those that are not found."""
    default = schema.Store()
    reader = StoreReader(StoreSettings(str(store), default.max_bytes, default.max_age_s))
    wanted = sorted(trace_ids)
    missing = []
    try:
        for first in range(0, len(wanted), _AT_ONCE):
            asked = wanted[first : first + _AT_ONCE]
            found = {trace[0].trace_id for trace in reader.get_trace_many(asked)}
            missing += [trace_id for trace_id in asked if trace_id not in found]
    finally:
        reader.close()
    return missing
