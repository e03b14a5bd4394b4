"""The HTTP server of the agent: one thread, one event loop, any number of routes."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections import Counter
from collections.abc import Sequence
from email.utils import formatdate

import uvloop

from kaspan.agent.http.acceptor import Acceptor
from kaspan.agent.http.access import Access
from kaspan.agent.http.body_budget import BodyBudget
from kaspan.agent.http.connection import Connection
from kaspan.agent.http.listener import Listener
from kaspan.agent.http.messages import Handler, Request, Response, make_refusal
from kaspan.config import schema

SWEEP_S = 1.0
"""How often the deadlines of all connections are checked."""
DRAIN_S = 2.0
"""How long a stopping server waits for requests that have begun."""
HELD_BODIES = 2
"""The budget for request bodies, in bodies of the largest size; beyond it requests get 429."""
SLOW_BODY_S = 5.0
"""How long a body may take to arrive while other bodies do not fit."""
VARIABLE = "/{}"
"""The last part of a route's path for any name: /api/v2/trace/{}."""
_READ_BYTES = 64 * 1024
_SLASHES = re.compile("//+")

_log = logging.getLogger("kaspan.agent")


class FatalError(Exception):
    """A handler raises this when the agent cannot go on; its cause is the error."""


class HttpServer:
    """Answers requests from `listeners`, by the routes that were added before `run`.

    `run` serves until `stop`, then finishes requests that have begun. `refusals` counts refused requests by
    reason. If agent.token is set, requests through TCP must have it.
    """

    def __init__(self, listeners: Sequence[Listener], settings: schema.Agent) -> None:
        self.refusals: Counter[str] = Counter()
        self.is_stopping = False
        self.date = formatdate(usegmt=True)
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self.buffer = bytearray(_READ_BYTES)
        self.budget = BodyBudget(0)
        self._listeners = listeners
        self._acceptor = Acceptor(self.loop, listeners, self.refusals)
        self.adjust(settings)
        self._routes: dict[str, dict[str, tuple[Handler, bool]]] = {}
        self._failure: FatalError | None = None
        self._stopped = asyncio.Event()
        self._lock = threading.Lock()

    def adjust(self, settings: schema.Agent) -> None:
        """Use other settings from the next request on. Any thread may call it."""
        self._max_body_bytes = settings.max_body_bytes
        self.budget.max_bytes = settings.max_body_bytes * HELD_BODIES
        self._acceptor.adjust(settings.max_connections)
        self._access = Access(settings)

    def renew_certificate(self, settings: schema.Tls) -> None:
        """Read certificate and key again. Raises ListenError, and then the old ones stay in use."""
        for listener in self._listeners:
            listener.renew(settings)

    @property
    def names(self) -> list[str]:
        """The addresses of all listeners."""
        return [listener.name for listener in self._listeners]

    def add(self, method: str, path: str, handler: Handler, needs_token: bool = True) -> None:
        """Add a route: `handler` answers requests with this method and path, in the event loop.

        A path that ends in VARIABLE has any text without a slash in its place.
        """
        methods = self._routes.setdefault(path, {})
        methods[method] = (handler, needs_token)
        if method == "GET":
            methods["HEAD"] = methods[method]  # the same response without its body

    def run(self) -> None:
        """Serve until `stop` is called. Raises FatalError if a handler cannot go on."""
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            with self._lock:
                self.loop.close()
            for listener in self._listeners:
                listener.close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Make `run` finish requests that have begun, and return. Any thread may call it."""
        with self._lock:
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self) -> None:
        self._acceptor.open(lambda listener: Connection(self, is_trusted=bool(listener.path)))
        sweeping = self.loop.create_task(self._sweep())
        await self._stopped.wait()
        self.is_stopping = True
        self._acceptor.close()
        connections = self._acceptor.connections
        for connection in list(connections):
            connection.close()
        deadline_s = self.loop.time() + DRAIN_S
        while connections and self.loop.time() < deadline_s:
            await asyncio.sleep(0.01)
        for connection in list(connections):
            connection.abort()
        sweeping.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.date = formatdate(usegmt=True)
            now_s = self.loop.time()
            for connection in list(self._acceptor.connections):
                if connection.deadline_s <= now_s:
                    connection.time_out()

    def count_connections(self) -> int:
        """How many connections are open."""
        return len(self._acceptor.connections)

    # Called by connections.

    def disconnected(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._acceptor.connections.pop(connection, None)

    def refuse_head(self, request: Request) -> Response | None:
        """Refuse a request before its body is read: without access, or with a Content-Length too large."""
        _, needs_token = (self._methods(request.path) or {}).get(request.method, (None, True))
        refusal = self._access.refuse(request) if needs_token else None
        if refusal is not None:
            return refusal
        announced = int(request.headers.get("content-length", 0))
        if announced or "transfer-encoding" in request.headers:
            return self._refuse_body(request) or self.refuse_size(announced, announced)
        return None

    def _methods(self, path: str) -> dict[str, tuple[Handler, bool]] | None:
        """Return the methods of a path; None if there is nothing. As in Zipkin, `//` is `/`."""
        methods = self._routes.get(path)
        if methods is None:
            folder, _, name = _SLASHES.sub("/", path).rpartition("/")
            methods = self._routes.get(f"{folder}/{name}")
            if methods is None and name:
                methods = self._routes.get(folder + VARIABLE)
        return methods

    def _refuse_body(self, request: Request) -> Response | None:
        """Refuse a body on routes without one: /health is public, and must not fill the budget."""
        if request.method == "POST":
            return self._refuse_route(request)
        return self._refuse_route(request) or make_refusal(
            413, "too large", "A request to this path may not have a body"
        )

    def _refuse_route(self, request: Request) -> Response | None:
        """Refuse an unknown path or method."""
        methods = self._methods(request.path)
        if methods is None:
            return make_refusal(404, "path", f"There is nothing at {request.path[:200]}")
        if request.method not in methods and not self._access.is_preflight(request):
            allowed = ", ".join(methods)
            return make_refusal(405, "method", f"The allowed methods are {allowed}", ("Allow", allowed))
        return None

    def refuse_size(self, size: int, body_bytes: int) -> Response | None:
        """Refuse `size` more bytes of a body, which has `body_bytes` with them, if they are too many."""
        if body_bytes > self._max_body_bytes:
            reason = f"A body may have at most {self._max_body_bytes} bytes (agent.max_body_bytes)"
            return make_refusal(413, "too large", reason)
        if not self.budget.has(size):
            self._make_room(size)
            if not self.budget.has(size):
                return make_refusal(429, "busy", "Too many request bodies are arriving", ("Retry-After", "1"))
        return None

    def _make_room(self, size: int) -> None:
        """Time out bodies that have been arriving for over SLOW_BODY_S, oldest first, until `size` fits."""
        late_s = self.loop.time() - SLOW_BODY_S
        on_their_way = [
            connection
            for connection in self._acceptor.connections
            if connection.is_sending and connection.since_s < late_s
        ]
        for connection in sorted(on_their_way, key=lambda connection: connection.since_s):
            if self.budget.has(size):
                return
            connection.time_out()

    def count_refusal(self, reason: str) -> None:
        """Count a request that is refused, or whose response is cut off."""
        self.refusals[reason] += 1

    async def answer(self, request: Request) -> Response:
        """Answer a whole request. Never raises."""
        answer = self._refuse_route(request)
        if answer is None:
            methods = self._methods(request.path) or {}
            if self._access.is_preflight(request):
                answer = self._access.preflight(request, methods)
            else:
                answer = await self._handle(methods[request.method][0], request)
        if answer.refusal:
            self.count_refusal(answer.refusal)
        return self._access.with_cors_headers(request, answer)

    async def _handle(self, handler: Handler, request: Request) -> Response:
        try:
            return await handler(request)
        except FatalError as error:
            self._failure = self._failure or error
            self._stopped.set()
        except Exception:  # noqa: BLE001 (logged, and answered with 500; other requests go on)
            _log.exception("%s %s failed", request.method, request.path)
        return make_refusal(500, "failure", "The agent failed on this request; its log says why")
