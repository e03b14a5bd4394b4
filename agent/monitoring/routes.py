"""Routes of the HTTP server about the agent itself: /metrics, /health, /status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from kaspan.agent.http.messages import Request, Response
from kaspan.agent.http.server import HttpServer
from kaspan.agent.monitoring import metrics
from kaspan.agent.monitoring.observer import Observer
from kaspan.agent.status import Status, is_accepting, state

HEALTH_PATH = "/health"
LIVE_PATH = "/health/live"
METRICS_PATH = "/metrics"
STATUS_PATH = "/status"

_JSON = "application/json"
_Result = TypeVar("_Result")


class MonitoringRoutes:
    """The routes for one agent. If agent.token is set, all but /health need it.

    No handler waits for the disk in the event loop's thread.
    """

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._thread = ThreadPoolExecutor(1, "operation")

    def add_to(self, server: HttpServer) -> None:
        """Add the routes to a server that does not run yet."""
        server.add("GET", HEALTH_PATH, self.health, needs_token=False)
        server.add("GET", LIVE_PATH, self.live, needs_token=False)
        server.add("GET", METRICS_PATH, self.metrics)
        server.add("GET", STATUS_PATH, self.status)

    async def health(self, request: Request) -> Response:  # noqa: ARG002 (part of the interface)
        """Answer 200 while the agent accepts spans, otherwise 503, with the reasons of all problems.

        Without their texts, which name addresses and paths: anybody may ask.
        """
        problems = await self._elsewhere(lambda: list(self._observer.problems()))
        found = list(dict.fromkeys(problem.reason for problem in problems))
        body = msgspec.json.encode({"status": state(problems), "reasons": found})
        return Response(200 if is_accepting(problems) else 503, body + b"\n", _JSON)

    async def live(self, request: Request) -> Response:  # noqa: ARG002 (part of the interface)
        """Answer 200: the process works."""
        return Response(200, b'{"status":"alive"}\n', _JSON)

    async def metrics(self, request: Request) -> Response:  # noqa: ARG002 (part of the interface)
        """Return all metrics for Prometheus."""
        text = await self._elsewhere(lambda: metrics.render(self._observer.observe()))
        return Response(200, text.encode("utf-8", "replace"), metrics.CONTENT_TYPE)

    async def status(self, request: Request) -> Response:  # noqa: ARG002 (part of the interface)
        """Return the whole status as JSON, for `kaspan agent status`."""
        return Response(200, await self._elsewhere(lambda: _json(self._observer.observe())), _JSON)

    async def _elsewhere(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _json(status: Status) -> bytes:
    try:
        return msgspec.json.encode(status)
    except UnicodeEncodeError:
        return msgspec.json.encode(_encodable(msgspec.to_builtins(status)))


def _encodable(value: Any) -> Any:
    """Replace by ? what UTF-8 cannot encode: names of files may be any bytes."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value
