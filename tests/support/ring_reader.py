"""Takes spans out of rings as the agent does, strictly: what it returns is what Zipkin would be given."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
from opentelemetry import trace

from kaspan.wire import ring as layout
from kaspan.wire.span import Span

__all__ = ["RingReader", "Span", "current", "decode", "offsets", "read_header", "rings"]


def rings(directory: Path) -> list[Path]:
    """Return the rings in a directory, none if it does not exist."""
    return sorted(directory.glob(f"*{layout.SUFFIX}"))


def read_header(path: Path) -> layout.Header:
    """Return the header of a ring."""
    with open(path, "rb") as file:
        return layout.Header(file.read(layout.HEADER_BYTES))


def decode(payload: bytes) -> Span:
    """Return the span of a ring's payload; fails where Zipkin would wonder what was meant."""
    json.loads(payload, object_pairs_hook=_distinct)
    span = msgspec.json.decode(payload, type=Span)
    assert len(span.trace_id) in (16, 32), span
    assert int(span.trace_id, 16), span
    assert len(span.id) == 16, span
    assert int(span.id, 16), span
    assert span.timestamp is not None, span
    assert span.duration is not None, span
    assert span.timestamp > 0, span
    assert span.duration > 0, span
    assert span.local_endpoint is not None, span
    return span


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    assert len(keys) == len(set(keys)), f"a key twice in one object: {keys}"
    return dict(pairs)


class RingReader:
    """Reads the rings of `directory`, each span once, and lets their writers go on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def take(self) -> list[Span]:
        """Return the spans that were written since the last call, ring after ring."""
        return [span for path in rings(self.directory) for span in self.take_from(path)]

    def take_from(self, path: Path) -> list[Span]:
        """Return the spans that were written into one ring since it was last read."""
        return [decode(payload) for payload in self.take_payloads(path)]

    def take_payloads(self, path: Path) -> list[bytes]:
        """Return what was written into one ring since it was last read, and move its read position."""
        header = read_header(path)
        payloads: list[bytes] = []
        descriptor = os.open(path, os.O_RDWR)
        try:
            position = header.read_pos
            while position < header.write_pos:
                index = position % header.data_bytes
                size = min(header.write_pos - position, header.data_bytes - index)
                data = os.pread(descriptor, size, layout.HEADER_BYTES + index)
                found, position, fault = layout.read_frames(data, position, header.data_bytes)
                assert fault is None, f"{path} at {position}: {fault}"
                payloads += found
            os.pwrite(descriptor, layout.pack_position(position), layout.READ_POS)
        finally:
            os.close(descriptor)
        return payloads


def offsets(spans: list[Span]) -> list[int]:
    """Return the offsets of the records that the spans are about, in order."""
    return [int(span.tags["messaging.kafka.offset"]) for span in spans]


def current() -> tuple[str, str] | None:
    """Return trace id and span id of OpenTelemetry's current span as Zipkin shows them, or None."""
    context = trace.get_current_span().get_span_context()
    return (f"{context.trace_id:032x}", f"{context.span_id:016x}") if context.is_valid else None
