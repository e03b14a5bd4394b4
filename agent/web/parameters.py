"""Reads the parameters of a query as Zipkin's server does, with its texts for what is wrong.

Source: ZipkinQueryApiV2 of Zipkin 3, and answers of Zipkin 3.5.1, whose server is Armeria.
"""

from __future__ import annotations

import re

from kaspan.agent.http.query_string import parse_query
from kaspan.store.normal_form import normalize_trace_id
from kaspan.store.query_request import QueryRequest, parse_annotation_query

DEFAULT_LOOKBACK_MS = 86_400_000
DEFAULT_LIMIT = 10
MAX_TRACE_IDS = 1000
_MAX_TIME_MS = (2**63 - 1) // 1000
"""The latest time that in microseconds is a number of 64 bits."""
# As Java's Long.parseLong: digits of any script, but for those outside of the Basic Multilingual Plane.
_NUMBER = re.compile(r"[+-]?\d+")
_SPACES = "".join(map(chr, range(33)))


class Parameters:
    """The parameters of one query string. Every method raises ValueError for what Zipkin answers 400."""

    def __init__(self, query: str) -> None:
        self._values = parse_query(query)

    def text(self, name: str) -> str:
        """Return a parameter that must be there; it may be empty."""
        if name not in self._values:
            raise ValueError(f"Mandatory parameter/header/attribute is missing: {name}")
        return self._values[name]

    def optional_text(self, name: str) -> str:
        """Return a parameter; empty if it is not there."""
        return self._values.get(name, "")

    def number(self, name: str, default: int | None = None, bits: int = 64) -> int:
        """Return a parameter that is a number of so many bits. An empty one is wrong, also with a default."""
        if default is not None and name not in self._values:
            return default
        text = self.text(name)
        if not text:
            raise ValueError(f"Cannot set null to primitive type parameter: {name}")
        return _parse_number(text, bits)

    def optional_number(self, name: str) -> int | None:
        """Return a parameter that is a number; None if it is empty or not there."""
        text = self.optional_text(name)
        return _parse_number(text, 64) if text else None


def _parse_number(text: str, bits: int) -> int:
    if _NUMBER.fullmatch(text) and max(text) <= "\uffff" and len(text) <= 100:
        number = int(text)
        if -(1 << bits - 1) <= number < 1 << bits - 1:
            return number
    raise ValueError(f'For input string: "{text}"')


def read_search(parameters: Parameters, now_ms: int) -> QueryRequest:
    """Return the search that is asked for. `order` is not Zipkin's: `newest` or `longest` traces first."""
    min_duration_us = parameters.optional_number("minDuration")
    max_duration_us = parameters.optional_number("maxDuration")
    end_ts_ms, lookback_ms = _read_window(parameters, parameters.optional_number("endTs"), now_ms)
    limit = parameters.number("limit", DEFAULT_LIMIT, bits=32)
    order = parameters.optional_text("order") or "newest"
    span_name = parameters.optional_text("spanName").lower()
    request = QueryRequest(
        end_ts_ms=end_ts_ms,
        lookback_ms=lookback_ms,
        limit=limit,
        service_name=parameters.optional_text("serviceName").lower() or None,
        remote_service_name=parameters.optional_text("remoteServiceName").lower() or None,
        span_name=None if span_name == "all" else span_name or None,
        annotation_query=parse_annotation_query(parameters.optional_text("annotationQuery")),
        min_duration_us=min_duration_us,
        max_duration_us=max_duration_us,
        order="longest" if order == "longest" else "newest",
    )
    if order not in ("newest", "longest"):
        raise ValueError(f'order is "{order}"; it may be newest or longest')
    return request


def read_window(parameters: Parameters) -> tuple[int, int]:
    """Return end and length, in milliseconds, of the time whose dependencies are asked for."""
    end_ts_ms, lookback_ms = _read_window(parameters, parameters.number("endTs"), 0)
    for name, value in (("endTs", end_ts_ms), ("lookback", lookback_ms)):
        if value <= 0:
            raise ValueError(f"{name} <= 0")
    return end_ts_ms, lookback_ms


def _read_window(parameters: Parameters, end_ts_ms: int | None, now_ms: int) -> tuple[int, int]:
    """Return end and length of a time, both within what the store can count; what is not positive stays."""
    end_ts_ms = min(now_ms if end_ts_ms is None else end_ts_ms, _MAX_TIME_MS)
    lookback_ms = parameters.optional_number("lookback")
    lookback_ms = DEFAULT_LOOKBACK_MS if lookback_ms is None else lookback_ms
    return end_ts_ms, min(lookback_ms, end_ts_ms) if end_ts_ms > 0 else lookback_ms


def read_trace_id(text: str) -> str:
    """Return the trace id of a path, in 16 or 32 digits; spaces around it are ignored."""
    return _read_id(text.strip(_SPACES))


def read_trace_ids(parameters: Parameters) -> list[str]:
    """Return the trace ids of `traceIds`, two or more, in 16 or 32 digits."""
    text = parameters.text("traceIds")
    if not text:
        raise ValueError("traceIds parameter is empty")
    found: dict[str, None] = {}
    for trace_id in text.split(",", MAX_TRACE_IDS - 1):
        normal = _read_id(trace_id)
        if normal in found:
            raise ValueError(f"redundant traceId: {trace_id}")
        found[normal] = None
    if len(found) == 1:
        raise ValueError("Use /api/v2/trace/{traceId} endpoint to retrieve a single trace")
    return list(found)


def _read_id(text: str) -> str:
    normal = normalize_trace_id(text)
    if text != text.lower():
        raise ValueError(f"{text} should be lower-hex encoded with no prefix")
    return normal
