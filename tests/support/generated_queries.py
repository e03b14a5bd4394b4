"""Queries to Zipkin's API: right and wrong ones, about what is stored and about what is not."""

from __future__ import annotations

import random
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

Span = dict[str, Any]

NUMBERS = ["0", "-1", "1", "abc", "1.5", "", " 5", "5 ", "+5", "1_000", "0x10", "1e3", "\u0663", "-", "null"]
NUMBERS += ["007", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808"]
IDS = ["", "0", "0" * 16, "0" * 32, "g", "xyz", "1" * 33, "-1", "0x1", "463ac35c-9f64", "\uff41", "%20"]
LIMITS = [1, 2, 3, 10, 10, 10, 100]
YEAR_2000_MS = 946_684_800_000
"""Links are asked of later times: of spans without a timestamp, which Zipkin has in 1970, they may differ."""
DAYS_MS = [86_400_000, 200_000_000, 10**15]
LOOKBACKS_MS = [1, 2, 1000, 60_000, 600_000, 1_800_000, 3_600_000, *DAYS_MS]
CONDITIONS = ["", "=", "=x", "error=", "a=b=c", " error ", "error = true", "and", "retry=2 and"]
CHARACTERS = "aZ09 =&?/%+#;,'\"\\<>[]{}|^`~äßİΣς\u0663\uff41\u200b\u2028😀\ue000\x00\x01\t\n\r\x1f\x7f\x85"
AUTOCOMPLETE_KEYS = ("error", "http.path", "größe", "none")
EDGES = [
    "/api/v2/traces?limit=1&limit=2",
    "/api/v2/traces?Limit=abc",
    "/api/v2/traces?limit",
    "/api/v2/traces?&&limit=1&",
    "/api/v2/traces?serviceName=%zz",
    "/api/v2/traces?serviceName=%ff%fe",
    "/api/v2/traces?serviceName=a;limit=abc",
    "/api/v2/services?x=y",
    "/api/v2/traces/",
    "/api/v2/trace/",
    "/api/v2/trace",
    "/api/v2/trace/a/b",
    "/api/v2/none",
    "/api/v2",
    "/api/v1/services",
    "/api/v2/spans",
    "/api/v2/remoteServices",
    "/api/v2/dependencies",
    "/api/v2/autocompleteValues",
    "/api/v2/traceMany",
    "/api/v2/spans?serviceName=orders&serviceName=shipping",
]
"""Requests that are not made of the parameters below."""


class Query(NamedTuple):
    """One request to a Zipkin."""

    target: str
    method: str = "GET"


@dataclass(frozen=True)
class Vocabulary:
    """What the stored spans say: queries ask for these, and sometimes for others."""

    services: Sequence[str]
    span_names: Sequence[str]
    tags: Sequence[tuple[str, str]]
    annotations: Sequence[str]
    trace_ids: Sequence[str]
    times_ms: Sequence[int]
    durations_us: Sequence[int]

    @classmethod
    def of(cls, spans: Iterable[Span]) -> Vocabulary:
        """Collect it from spans as clients send them."""
        found: dict[str, set[Any]] = {name: set() for name in cls.__dataclass_fields__}
        for span in spans:
            endpoints = [span.get("localEndpoint") or {}, span.get("remoteEndpoint") or {}]
            found["services"].update(endpoint.get("serviceName") for endpoint in endpoints)
            found["span_names"].add(span.get("name"))
            found["tags"].update((key, str(value)) for key, value in (span.get("tags") or {}).items())
            found["annotations"].update(item["value"] for item in span.get("annotations") or ())
            found["trace_ids"].add(span["traceId"])
            found["times_ms"].add(int(span.get("timestamp") or 0) // 1000)
            found["durations_us"].add(int(span.get("duration") or 0))
        return cls(**{name: sorted(values - {None}) for name, values in found.items()})


def query(rng: random.Random, vocabulary: Vocabulary) -> Query:
    """Make any query: most of them search for traces, some are wrong, some are no queries at all."""
    make = rng.choices(_ENDPOINTS, _WEIGHTS)[0]
    prefix = "/zipkin" if rng.random() < 0.2 else ""
    method = "GET" if rng.random() < 0.98 else rng.choice(["POST", "PUT", "DELETE", "HEAD", "PATCH"])
    return Query(prefix + make(_Draw(rng, vocabulary)), method)


class _Draw:
    """What queries are made of."""

    def __init__(self, rng: random.Random, vocabulary: Vocabulary) -> None:
        self.rng = rng
        self.vocabulary = vocabulary

    def service(self) -> str:
        return self._name(self.vocabulary.services)

    def span_name(self) -> str:
        return self._name(self.vocabulary.span_names)

    def _name(self, known: Sequence[str]) -> str:
        """A known name in four of five times, in capital letters at times, or one that nothing has."""
        name = self.rng.choice(known)
        return self.rng.choice([name, name, name, name.upper(), self.rng.choice([name + "x", "", "unknown"])])

    def number(self, usual: int) -> str:
        """That one, and once in forty times one that is refused, or read in a way of its own."""
        return str(usual) if self.rng.random() < 0.975 else self.rng.choice(NUMBERS)

    def end_ms(self) -> int:
        return self.rng.choice(self.vocabulary.times_ms) + self.rng.choice([-1, 0, 1, 2, 60_000, 3_600_000])

    def lookback_ms(self) -> int:
        return self.rng.choice(LOOKBACKS_MS)

    def trace_id(self) -> str:
        known = self.rng.choice(self.vocabulary.trace_ids)
        forms = [known[-16:], known.upper(), known.rjust(32, "0"), known.lstrip("0"), f" {known} "]
        odd = self.rng.choice([*forms, "abc" + known[-16:].rjust(16, "0"), *IDS])
        return known if self.rng.random() < 0.6 else odd

    def condition(self) -> str:
        key, value = self.rng.choice(self.vocabulary.tags)
        annotation = self.rng.choice(self.vocabulary.annotations)
        usual = [f"{key}={value}", key, annotation, annotation, f"{key}={value}"]
        return self.rng.choice([*usual, self.rng.choice(CONDITIONS)])

    def conditions(self) -> str:
        return " and ".join(self.condition() for _ in range(self.rng.randint(1, 2)))

    def some(self, **parameters: tuple[float, Callable[[], object]]) -> str:
        """Each parameter with its probability, encoded."""
        chosen = {name: value for name, (often, value) in parameters.items() if self.rng.random() < often}
        if "lookback" in chosen and "endTs" not in chosen:
            # Both servers look back from their own now: to a time of which no span is.
            chosen["lookback"] = lambda: self.rng.choice(DAYS_MS)
        present = [(name, str(value())) for name, value in chosen.items()]
        return "?" + urllib.parse.urlencode(present) if present else ""


def _search(draw: _Draw) -> str:
    often = draw.rng.choice([0.1, 0.1, 0.3, 0.6])
    return "/api/v2/traces" + draw.some(
        serviceName=(0.5, draw.service),
        remoteServiceName=(often, draw.service),
        spanName=(often, draw.span_name),
        annotationQuery=(
            often,
            lambda: " and ".join(draw.condition() for _ in range(draw.rng.randint(1, 2))),
        ),
        minDuration=(often, lambda: draw.number(draw.rng.choice(draw.vocabulary.durations_us))),
        maxDuration=(often / 3, lambda: draw.number(2 ** draw.rng.randint(0, 62))),
        endTs=(0.8, lambda: draw.number(draw.end_ms())),
        lookback=(0.7, lambda: draw.number(draw.lookback_ms())),
        limit=(0.7, lambda: draw.number(draw.rng.choice(LIMITS))),
    )


def _trace(draw: _Draw) -> str:
    return "/api/v2/trace/" + urllib.parse.quote(draw.trace_id(), safe="")


def _trace_many(draw: _Draw) -> str:
    ids = draw.rng.sample(draw.vocabulary.trace_ids, draw.rng.randint(2, 6))
    if draw.rng.random() < 0.3:
        ids = [draw.trace_id() for _ in range(draw.rng.randint(0, 4))]
    return "/api/v2/traceMany" + draw.some(traceIds=(0.98, lambda: ",".join(ids)))


def _dependencies(draw: _Draw) -> str:
    return "/api/v2/dependencies" + draw.some(
        endTs=(0.95, lambda: draw.number(max(draw.end_ms(), YEAR_2000_MS))),
        lookback=(0.8, lambda: draw.number(min(draw.lookback_ms(), DAYS_MS[1]))),
    )


def _values(draw: _Draw) -> str:
    keys = [draw.rng.choice(draw.vocabulary.tags)[0], *AUTOCOMPLETE_KEYS]
    return "/api/v2/autocompleteValues" + draw.some(key=(0.95, lambda: draw.rng.choice([*keys, ""])))


def _text(draw: _Draw) -> str:
    """A search with any text in it, as no interface makes it."""
    text = "".join(draw.rng.choice(CHARACTERS) for _ in range(draw.rng.randint(1, 5)))
    return "/api/v2/traces" + draw.some(
        serviceName=(0.5, lambda: text), spanName=(0.3, lambda: text), annotationQuery=(0.5, lambda: text)
    )


_MAKERS: dict[Callable[[_Draw], str], int] = {
    _search: 55,
    _trace: 10,
    _trace_many: 7,
    _dependencies: 7,
    _values: 4,
    _text: 3,
    lambda draw: draw.rng.choice(EDGES): 3,
    lambda draw: "/api/v2/spans" + draw.some(serviceName=(0.97, draw.service)): 4,
    lambda draw: "/api/v2/remoteServices" + draw.some(serviceName=(0.97, draw.service)): 4,
    lambda draw: "/api/v2/services": 2,
    lambda draw: "/api/v2/autocompleteKeys": 1,
}
_ENDPOINTS, _WEIGHTS = list(_MAKERS), list(_MAKERS.values())
