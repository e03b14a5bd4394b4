"""Spans for tests that look at a trace's structure."""

from __future__ import annotations

from typing import Any

from kaspan.wire.span import Endpoint, Span


def span(span_id: str, parent: str | None = None, kind: str | None = None, **more: Any) -> Span:
    """Return a span in normal form of the trace "a"; `local` and `remote` are names of services.

    `ip` is the address of the local endpoint, `error` whether there is a tag of that name.
    """
    local, remote, ip = more.pop("local", None), more.pop("remote", None), more.pop("ip", None)
    if more.pop("error", False):
        more["tags"] = {"error": ""}
    return Span(
        more.pop("trace_id", "000000000000000a"),
        span_id.rjust(16, "0"),
        parent and parent.rjust(16, "0"),
        kind,
        local_endpoint=Endpoint(local, ip) if local or ip else None,
        remote_endpoint=Endpoint(remote) if remote else None,
        **more,
    )
