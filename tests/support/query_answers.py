"""Answers of two servers to the same query of Zipkin's API, compared as far as the API defines them."""

from __future__ import annotations

import http.client
import json
import re
from collections import Counter
from collections.abc import Callable
from itertools import groupby
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from support.generated_queries import Query

HEADERS = ("content-type", "cache-control")
ANSWER_TIMEOUT_S = 60
ANY_TEXT = "text/*"
"""What Zipkin says is the type of its messages, which is no type: kaspan says text/plain."""
_CONTROL_CHARACTER = re.compile(r"%(0|1|7F|C2%[89])", re.IGNORECASE)


class Answer(NamedTuple):
    """What a server says; `headers` are those of HEADERS that it has."""

    status: int
    headers: dict[str, str]
    body: bytes


class Asked:
    """A server that is asked over one connection."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_TIMEOUT_S)

    def ask(self, query: Query) -> Answer:
        """Send one query and return the answer."""
        self._connection.request(query.method, query.target)
        response = self._connection.getresponse()
        body = response.read()
        headers = {name: value for name in HEADERS if (value := response.getheader(name))}
        if headers.get("content-type") == ANY_TEXT:
            headers["content-type"] = "text/plain; charset=utf-8"
        return Answer(response.status, headers, body)

    def close(self) -> None:
        self._connection.close()


class KnownDifference(NamedTuple):
    """A way in which kaspan answers otherwise than Zipkin, and why."""

    name: str
    reason: str
    covers: Callable[[Query, Answer, Answer], bool]


KNOWN_DIFFERENCES = [
    KnownDifference(
        "control characters",
        "Zipkin's HTTP server refuses a URL with a control character in it: a service with such a name "
        "cannot be asked for. kaspan refuses only %00.",
        lambda query, zipkin, kaspan: (
            zipkin.body == b"Status: 400\nDescription: Invalid request path\n"
            and (kaspan.status == 400 or bool(_CONTROL_CHARACTER.search(query.target)))
        ),
    ),
    KnownDifference(
        "methods",
        "To methods other than GET, Zipkin answers 404 or 405 by whether its page has the path as well. "
        "kaspan answers 405 to all, and HEAD as HTTP has it: as GET, without the body.",
        lambda query, zipkin, kaspan: (
            query.method != "GET"
            and zipkin.status in (400, 404, 405)
            and kaspan.status in ((404, 405) if query.method != "HEAD" else (200, 400, 404))
        ),
    ),
    KnownDifference(
        "paths that are not in the API",
        "Both answer 404; kaspan's text says what is not there.",
        lambda query, zipkin, kaspan: zipkin.body == b"404 Not Found" and kaspan.status == 404,
    ),
]
"""None is a difference of what is found. Two of those are known, which the generated spans leave out:

- The order in which the spans of a trace came counts for its time if several of them have no parent. It is
  not kept of spans that came in one second and have times of different hours.
- Of traces in which only spans without a timestamp, or outside the time of the search, meet a condition, a
  search reads a limited number (store/search.py).
"""


def difference(query: Query, zipkin: Answer, kaspan: Answer) -> str:
    """Return what differs between Zipkin's answer and kaspan's, "" for nothing or what is known."""
    if any(known.covers(query, zipkin, kaspan) for known in KNOWN_DIFFERENCES):
        return ""
    if zipkin.status != kaspan.status:
        return f"status {zipkin.status} {zipkin.body[:200]!r}, kaspan's {kaspan.status} {kaspan.body[:200]!r}"
    if zipkin.headers != kaspan.headers:
        return f"headers {zipkin.headers}, kaspan's {kaspan.headers}"
    if zipkin.body == kaspan.body:
        return ""
    if zipkin.status != http.HTTPStatus.OK or not (zipkin.body and kaspan.body):
        return f"{zipkin.status} {zipkin.body[:200]!r}, kaspan's {kaspan.body[:200]!r}"
    # Zipkin reckons some spans larger than they are, and fills up the list with NUL behind its end.
    written = zipkin.body.rstrip(b"\0"), kaspan.body
    expected, found = (_comparable(query, json.loads(text)) for text in written)
    return "" if expected == found else _first_difference(expected, found)


def _comparable(query: Query, content: Any) -> Any:
    """Leave out of a decoded answer what the API does not define: the order of spans, and of links."""
    endpoint = urlsplit(query.target).path.removeprefix("/zipkin").removeprefix("/api/v2/").partition("/")[0]
    if endpoint == "traces":
        return [_unordered(group) for _, group in groupby(map(_spans, content), _low_trace_id)]
    if endpoint == "traceMany":
        return _unordered(map(_spans, content))
    if endpoint in ("trace", "dependencies"):
        return _unordered(content)
    return content


def _spans(trace: list[Any]) -> list[str]:
    return sorted(_written(span) for span in trace)


def _low_trace_id(trace: list[str]) -> str:
    trace_id: str = json.loads(trace[0])["traceId"]
    return trace_id[-16:]


def _unordered(values: Any) -> dict[str, int]:
    """Return how often each value is there. Traces that share the low bits of their ids have no order."""
    return dict(Counter(value if isinstance(value, str) else _written(value) for value in values))


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _first_difference(expected: Any, found: Any) -> str:
    if isinstance(expected, dict) and isinstance(found, dict):
        missing = [value for value in expected if expected[value] != found.get(value)]
        extra = [value for value in found if found[value] != expected.get(value)]
        return f"only Zipkin has {missing[:2]}, only kaspan has {extra[:2]}"
    if isinstance(expected, list) and isinstance(found, list):
        for at, (one, other) in enumerate(zip(expected, found, strict=False)):
            if one != other:
                return f"at {at} of {len(expected)} and {len(found)}: {_first_difference(one, other)}"
        return f"{len(expected)} values, kaspan's {len(found)}"
    return f"{expected!r}, kaspan's {found!r}"
