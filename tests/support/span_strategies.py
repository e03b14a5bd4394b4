"""Any span that Zipkin takes, for hypothesis, and whether bytes are one."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

from kaspan.agent.codec.json_strict import json_batches

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MICROS = st.integers(0, 2**62)
TAGS = st.dictionaries(
    TEXT | st.sampled_from(["kafka.topic", "messaging.destination.name", "password", "error"]),
    TEXT,
    max_size=5,
)


def _ids(digits: int) -> st.SearchStrategy[str]:
    return st.integers(1, 16**digits - 1).map(lambda number: f"{number:0{digits}x}")


def _endpoints() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "serviceName": TEXT | st.sampled_from(["kafka", "KAFKA", "orders", None]),
            "ipv4": st.sampled_from(["10.0.0.1", None]),
            "ipv6": st.just("2001:db8::1"),
            "port": st.integers(0, 65535),
        },
    )


SPANS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"traceId": _ids(16) | _ids(32), "id": _ids(16)},
    optional={
        "parentId": _ids(16),
        "kind": st.sampled_from(["CLIENT", "SERVER", "PRODUCER", "CONSUMER", None]),
        "name": TEXT | st.none(),
        "timestamp": MICROS | MICROS.map(str) | st.none(),
        "duration": MICROS,
        "localEndpoint": _endpoints(),
        "remoteEndpoint": _endpoints() | st.none(),
        "annotations": st.lists(st.fixed_dictionaries({"timestamp": MICROS, "value": TEXT}), max_size=3)
        | st.none(),
        "tags": TAGS | st.dictionaries(TEXT, TEXT | st.integers(), max_size=3) | st.none(),
        "debug": st.booleans(),
        "shared": st.booleans() | st.none(),
        "unknown": TEXT | st.lists(st.integers(), max_size=2),
    },
)


def written(span: dict[str, Any]) -> bytes:
    """Return a span as the bytes a client would send."""
    return msgspec.json.encode(span)


def is_valid(payload: bytes) -> bool:
    """Whether the agent's HTTP receiver takes these bytes as one span."""
    return sum(batch.spans for batch in json_batches(b"[" + payload + b"]", 1 << 20)) == 1
