"""Traces whose spans share ids, names, tags and times, so that queries find some of them and not others."""

from __future__ import annotations

import random
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from support.span_strategies import SPANS

T = TypeVar("T")
Span = dict[str, Any]

SERVICES = [
    "orders",
    "shipping",
    "Mailer",
    "söring",
    "a b",
    "all",
    "kafka",
    "mysql",
    "A" * 40,
    "none",
    "x&y=z",
]
SPAN_NAMES = ["send orders", "process orders", "GET /", "get /", "all", "größe", "a+b", "100%", "q?", ""]
TAGS = {
    "error": ["", "true", "timeout of 5 s", "false"],
    "kafka.topic": ["orders", "shipments", "orders=1", "a and b"],
    "http.path": ["/", "/api", "/api?x=1&y=2", "/grün"],
    "größe": ["1", "\uff11", "😀"],
    "a=b": ["c", "=", ""],
    "retry": ["", " padded ", "2"],
    "all": ["all"],
}
ANNOTATIONS = ["retry", "error", "kafka.enqueued", "größe", "a=b", "a and b", " padded ", "ws", "http.path"]
DURATIONS_US = [1, 2, 999, 1000, 1001, 65_535, 65_536, 1_000_000, 2**31, 2**40, 0]
OFFSETS_MS = [-172_800_000, -90_000_000, -7_200_000, -3_600_000, -1_800_001, -1_800_000, -1_799_999, -600_000]
OFFSETS_MS += [90_000_000]
"""When traces begin, before the time that all is told from: none near it, nor near one day before it."""
STEP_MS = 600_000
UNTIMED_TRACES = 0.05
"""None of their spans has a timestamp. Of traces in which some have one, a search may miss a trace."""
JITTER_US = [0, 0, 1, 499, 500, 999, 1000, 1001, 2000, 60_000_000]
HIGH_IDS = ["", "", "", "463ac35c9f6413ad", "0000000000000001", "0" * 16, "f", "1"]
SPAN_IDS = ["1", "2", "3", "00000000000000a1", "a2", "ffffffffffffffff"]
KINDS = ["CLIENT", "SERVER", "PRODUCER", "CONSUMER"]


def time_to_tell_from(now_ms: int) -> int:
    """Return a time near `now_ms` from which no trace above goes beyond the end of an hour.

    The order in which the spans of a trace came counts in Zipkin: the first that has no parent has the time
    of the trace. kaspan keeps it too, but not of spans that come in the same second with times of different
    hours: those are in different blocks.
    """
    return now_ms // STEP_MS * STEP_MS + STEP_MS // 2


def trace(rng: random.Random, now_ms: int) -> list[Span]:
    """Make the spans of one trace, or of several that share the low 64 bits of their ids."""
    bits = 64 if rng.random() < 0.9 else rng.choice([16, 40])
    low, high = f"{rng.getrandbits(bits) + 1:x}"[-16:], rng.choice(HIGH_IDS)
    begin_us = (now_ms + rng.choice(OFFSETS_MS)) * 1000
    spans = [_span(rng, begin_us) for _ in range(rng.randint(1, 6))]
    if rng.random() < UNTIMED_TRACES:
        spans = [span | {"timestamp": 0} for span in spans]
    for span in spans:
        above = high if rng.random() < 0.9 else rng.choice(HIGH_IDS)
        span["traceId"] = above + (low.rjust(16, "0") if above else low)
    return spans


def _span(rng: random.Random, begin_us: int) -> Span:
    def time_us() -> int:
        return begin_us + rng.choice(JITTER_US)

    tags = rng.sample(sorted(TAGS), rng.randint(0, 3))
    members: Span = {
        "parentId": rng.choice([*SPAN_IDS, "0"]),
        "kind": rng.choice(KINDS),
        "name": rng.choice(SPAN_NAMES),
        "duration": rng.choice(DURATIONS_US),
        "localEndpoint": _endpoint(rng),
        "remoteEndpoint": _endpoint(rng),
        "annotations": [
            {"timestamp": time_us(), "value": rng.choice(ANNOTATIONS)} for _ in range(rng.randint(0, 3))
        ],
        "tags": {key: rng.choice(TAGS[key]) for key in tags},
        "debug": rng.random() < 0.5,
        "shared": rng.random() < 0.5,
    }
    return {"id": rng.choice(SPAN_IDS), "timestamp": time_us()} | _some(rng, members)


def _endpoint(rng: random.Random) -> Span:
    members = {
        "serviceName": rng.choice(SERVICES),
        "ipv4": rng.choice(["10.0.0.1", "10.0.0.2"]),
        "ipv6": rng.choice(["2001:db8::1", "::ffff:10.0.0.9", "2001:DB8:0:0:0:0:0:2"]),
        "port": rng.choice([0, 80, 9092]),
    }
    return _some(rng, members)


def _some(rng: random.Random, members: Span) -> Span:
    """Leave out some of them."""
    return {key: value for key, value in members.items() if rng.random() < 0.75}


@st.composite
def odd_spans(draw: st.DrawFn, now_ms: int) -> list[Span]:
    """Draw any span that Zipkin takes, at a time of which queries ask."""
    span = draw(SPANS)
    if "timestamp" in span and draw(st.booleans()):
        span["timestamp"] = (now_ms + draw(st.sampled_from(OFFSETS_MS))) * 1000
    return [span]


def drawn(strategy: st.SearchStrategy[T], count: int, number: int) -> list[T]:
    """Return so many values of a strategy: other ones for each `number`, always the same for the same."""
    values: list[T] = []

    def collect(value: T) -> None:
        values.append(value)

    settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(seed(number)(given(strategy)(collect)))()
    return values
