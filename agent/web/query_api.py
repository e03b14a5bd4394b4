"""Zipkin's query API over the span store, answered as Zipkin answers it.

Source: ZipkinQueryApiV2 and ZipkinUiConfiguration of Zipkin 3, and what Zipkin 3.5.1 answered when asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from itertools import chain
from urllib.parse import unquote

import msgspec

from kaspan.agent.http.encoding import accepts_gzip
from kaspan.agent.http.messages import TEXT, Handler, Request, Response
from kaspan.agent.http.server import VARIABLE, HttpServer
from kaspan.agent.web.lens import SAFE, Lens
from kaspan.agent.web.parameters import (
    Parameters,
    read_search,
    read_trace_id,
    read_trace_ids,
    read_window,
)
from kaspan.agent.web.query import BusyError, Query, QueryPool
from kaspan.config import schema
from kaspan.store.reader import QueryLimitError, StoreReader
from kaspan.wire.span import Span

ROOTS = ("/api/v2", "/zipkin/api/v2")
"""Zipkin has its API twice: the second is for its own page."""
_MAX_UNCACHED_NAMES = 3
"""Who has only so many services has just begun, and wants to see new ones at once."""
_JSON = "application/json"
_UTF8_JSON = "application/json; charset=utf-8"
_INDEX = f"""\
kaspan's span store answers the queries of Zipkin's API: {ROOTS[0]}/services, {ROOTS[0]}/traces and so on.
Grafana's data source for Zipkin can use it, and `kaspan traces` and `kaspan trace ID` show traces in a
terminal. Set agent.web.lens to have Zipkin's own page here. docs/http.md of kaspan says more.
""".encode()
_NOTHING = b"[]"
_Make = Callable[[], Iterator[bytes]]
_Headers = list[tuple[str, str]]

_encode = msgspec.json.Encoder().encode


class NotFoundError(Exception):
    """What is asked for is not in the store; the text is Zipkin's."""


class QueryApi:
    """The routes of Zipkin's query API, and of its page if agent.web.lens is set.

    If agent.token is set, all of them need it. No handler blocks: threads of a pool ask the reader. Raises
    ConfigError if agent.web.lens names no file of Zipkin's page.
    """

    def __init__(
        self, reader: StoreReader, settings: schema.Agent, clock_s: Callable[[], float] = time.time
    ) -> None:
        self._reader = reader
        self._clock_s = clock_s
        self._pool = QueryPool()
        self._lens = Lens.open(settings.web.lens) if settings.web.lens else None
        store = settings.store or schema.Store()
        self._keys = sorted(store.autocomplete_keys)
        self._config = _config(store.search_enabled)
        # With a token no cache may give one client's answer to another.
        self._cache_control = ("private, " if settings.token else "") + "max-age=300, must-revalidate"
        self._services = 0

    def add_to(self, server: HttpServer) -> None:
        """Add the routes to a server that does not run yet."""
        routes: dict[str, Handler] = {
            "/services": self.services,
            "/spans": self.spans,
            "/remoteServices": self.remote_services,
            "/traces": self.traces,
            f"/trace{VARIABLE}": self.trace,
            "/traceMany": self.trace_many,
            "/dependencies": self.dependencies,
            "/autocompleteKeys": self.autocomplete_keys,
            "/autocompleteValues": self.autocomplete_values,
        }
        for root in ROOTS:
            for path, handler in routes.items():
                server.add("GET", root + path, handler)
        for path in ("/config.json", "/zipkin/config.json"):
            server.add("GET", path, self.config)
        server.add("GET", "/info", self.info)
        if self._lens is None:
            server.add("GET", "/", self.index)
        else:
            self._lens.add_to(server)

    async def services(self, request: Request) -> Response:
        """Answer the names of all services."""

        def names() -> list[str]:
            found = self._reader.get_service_names()
            self._services = len(found)
            return found

        return await self._answer_names(request, names, self._has_many_services)

    async def spans(self, request: Request) -> Response:
        """Answer the names of a service's spans."""
        return await self._answer_names_of(request, self._reader.get_span_names)

    async def remote_services(self, request: Request) -> Response:
        """Answer the names of the services on the other side of a service's spans."""
        return await self._answer_names_of(request, self._reader.get_remote_service_names)

    async def autocomplete_keys(self, request: Request) -> Response:
        """Answer the tags of agent.store.autocomplete_keys."""
        return await self._answer_names(request, lambda: self._keys, lambda _: True)

    async def autocomplete_values(self, request: Request) -> Response:
        """Answer the values of a tag."""

        def names() -> list[str]:
            key = Parameters(request.query).text("key")
            if not key:
                raise ValueError("key was empty")
            return self._reader.get_autocomplete_values(key)

        return await self._answer_names(request, names, lambda found: len(found) > _MAX_UNCACHED_NAMES)

    async def traces(self, request: Request) -> Response:
        """Search traces."""

        def make() -> Iterator[bytes]:
            search = read_search(Parameters(request.query), int(self._clock_s() * 1000))
            return _traces_json(self._reader.search(search))

        return await self._answer(request, make)

    async def trace(self, request: Request) -> Response:
        """Answer one trace."""

        def make() -> Iterator[bytes]:
            trace_id = read_trace_id(unquote(request.path.rpartition("/")[2]))
            pieces = _trace_json(self._reader.get_trace(trace_id))
            first = next(pieces)
            if first == _NOTHING:
                raise NotFoundError(f"{trace_id} not found")
            return chain([first], pieces)

        return await self._answer(request, make)

    async def trace_many(self, request: Request) -> Response:
        """Answer several traces."""

        def make() -> Iterator[bytes]:
            traces = self._reader.get_trace_many(read_trace_ids(Parameters(request.query)))
            return _traces_json(iter([trace]) for trace in traces)

        return await self._answer(request, make)

    async def dependencies(self, request: Request) -> Response:
        """Answer the links between services."""

        def make() -> Iterator[bytes]:
            end_ts_ms, lookback_ms = read_window(Parameters(request.query))
            return iter([_encode(self._reader.get_dependencies(end_ts_ms, lookback_ms))])

        return await self._answer(request, make)

    async def config(self, request: Request) -> Response:  # noqa: ARG002 (part of the interface)
        """Answer the settings of Zipkin's page."""
        return Response(200, self._config, _UTF8_JSON, (*SAFE, ("Cache-Control", "max-age=600")))

    async def info(self, request: Request) -> Response:  # noqa: ARG002 (part of the interface)
        """Answer the version."""
        body = _encode({"kaspan": {"version": version("kaspan")}})
        return Response(200, body + b"\n", _UTF8_JSON, SAFE)

    async def index(self, request: Request) -> Response:  # noqa: ARG002 (part of the interface)
        """Say what is here."""
        return Response(200, _INDEX, TEXT, SAFE)

    def _has_many_services(self, _: list[str]) -> bool:
        return self._services > _MAX_UNCACHED_NAMES

    async def _answer_names_of(self, request: Request, get: Callable[[str], list[str]]) -> Response:
        def names() -> list[str]:
            return get(Parameters(request.query).text("serviceName"))

        return await self._answer_names(request, names, self._has_many_services)

    async def _answer_names(
        self, request: Request, names: Callable[[], list[str]], is_cached: Callable[[list[str]], bool]
    ) -> Response:
        headers: _Headers = []

        def make() -> Iterator[bytes]:
            found = names()
            if is_cached(found):
                headers.append(("Cache-Control", self._cache_control))
            return iter([_encode(found)])

        return await self._answer(request, make, headers)

    async def _answer(
        self, request: Request, make: _Make, headers: Iterable[tuple[str, str]] = ()
    ) -> Response:
        """Answer with the JSON that `make` yields in a thread, or with what is wrong with the query."""
        try:
            query = self._pool.begin(make)
        except BusyError as error:
            return _busy(error)
        is_open = False
        try:
            whole = await query.fill(accepts_gzip(request.headers))
            is_open = whole is None
        except ValueError as error:
            return _error(400, "query", str(error))
        except NotFoundError as error:
            return _error(404, "", str(error))
        except QueryLimitError as error:
            return _error(503, "query limit", str(error))
        except BusyError as error:
            return _busy(error)
        finally:
            if not is_open:
                query.close()
        return _json(query, whole, headers)


def _json(query: Query, whole: bytes | None, headers: Iterable[tuple[str, str]]) -> Response:
    encoding = (("Content-Encoding", "gzip"),) if query.is_packed else ()
    all_headers = (*SAFE, *headers, ("Vary", "Accept-Encoding"), *encoding)
    if whole is None:
        return Response(200, b"", _JSON, all_headers, stream=query)
    return Response(200, whole, _JSON, all_headers)


def _error(status: int, refusal: str, text: str, *headers: tuple[str, str]) -> Response:
    """Make the answer to a query that cannot be answered: its body is the text, as in Zipkin."""
    return Response(status, text.encode("utf-8", "replace"), TEXT, (*SAFE, *headers), refusal)


def _busy(error: BusyError) -> Response:
    return _error(503, "query busy", str(error), ("Retry-After", "1"))


def _traces_json(traces: Iterable[Iterable[list[Span]]]) -> Iterator[bytes]:
    """Yield the JSON of a list of traces, each of which comes in portions."""
    separator = b"["
    for portions in traces:
        yield separator
        yield from _trace_json(portions)
        separator = b","
    yield _NOTHING if separator == b"[" else b"]"


def _trace_json(portions: Iterable[list[Span]]) -> Iterator[bytes]:
    """Yield the JSON of a trace that comes in portions. While a client reads, only JSON is kept of them."""
    separator = b"["
    for spans in portions:
        if spans:
            piece = separator + _encode(spans)[1:-1]
            del spans
            yield piece
            separator = b","
    yield _NOTHING if separator == b"[" else b"]"


def _config(is_search_enabled: bool) -> bytes:
    settings = {
        "environment": "",
        "queryLimit": 10,
        "defaultLookback": 900_000,
        "searchEnabled": is_search_enabled,
        "logsUrl": None,
        "supportUrl": None,
        "archivePostUrl": None,
        "archiveUrl": None,
        "dependency": {"enabled": True, "lowErrorRate": 0.5, "highErrorRate": 0.75},
    }
    return msgspec.json.format(_encode(settings), indent=2)
