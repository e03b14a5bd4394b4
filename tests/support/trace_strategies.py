"""Any trace, for hypothesis: mostly malformed ones, whose few ids, services and addresses meet often."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

TRACE_IDS = ["000000000000000a", "a", "0000000000000001000000000000000a", "1000000000000000000000000000000a"]
IDS = [f"{number:016x}" for number in range(1, 8)]
SERVICES = ["web", "app", "DB", "é", "\ue000", "\U0001f600", "", None]


def _endpoints() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "serviceName": st.sampled_from(SERVICES),
            "ipv4": st.sampled_from(["10.0.0.1", "10.0.0.2", "none"]),
            "ipv6": st.sampled_from(["2001:db8::1", "2001:DB8:0::2"]),
            "port": st.sampled_from([0, 80, 81]),
        },
    )


def spans(trace_ids: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for spans of traces with these ids, as a client would write them."""
    return st.fixed_dictionaries(
        {"traceId": st.sampled_from(trace_ids), "id": st.sampled_from(IDS)},
        optional={
            "parentId": st.sampled_from(IDS),
            "kind": st.sampled_from(["CLIENT", "SERVER", "PRODUCER", "CONSUMER"]),
            "name": st.sampled_from(["get", "POST"]),
            "timestamp": st.integers(0, 3),
            "duration": st.integers(0, 3),
            "localEndpoint": _endpoints(),
            "remoteEndpoint": _endpoints(),
            "annotations": st.lists(
                st.fixed_dictionaries({"timestamp": st.integers(1, 2), "value": st.sampled_from("ab")}),
                max_size=2,
            ),
            "tags": st.dictionaries(st.sampled_from(["error", "a", "b"]), st.sampled_from(["", "1", "2"])),
            "debug": st.booleans(),
            "shared": st.booleans(),
        },
    )


TRACES = st.lists(spans(TRACE_IDS), min_size=1, max_size=12)
"""Traces as JSON values. Trace ids of 64 and of 128 bits, which have the low 64 bits in common."""
