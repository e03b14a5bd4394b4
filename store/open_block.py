"""A block that gets more spans: what the next commit writes, and what its index needs when it ends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain

from kaspan.store.digest import Digest, SpacedTagsError
from kaspan.store.indexed_span import IndexedSpan, read_spans
from kaspan.store.schema import MAX_BLOCK_SPANS

MAX_BLOCK_BYTES = 1024 * 1024
"""A block gets no more spans once their JSON has this size."""
MAX_OPEN_PARTS = 16
"""When so many bodies of an open block are stored, they are replaced by one."""

Trace = list[tuple[bytes, IndexedSpan]]
"""Spans of one trace: the JSON of each, and what the index needs of it."""


class OpenBlock:
    """The spans of a block by trace, and their digests by service.

    `parts` is how many bodies of it are stored, `new_traces` has the spans that are in none of them. A block
    that `is_full` must not get more spans.
    """

    def __init__(self, block_id: int, decodes_tags: bool = False) -> None:
        self.id = block_id
        self.spans = self.bytes = self.parts = 0
        self.is_full = False
        self.services: dict[str, Digest] = {}
        self.new_traces: dict[int, list[bytes]] = {}
        self._stored_traces: dict[int, list[bytes]] = {}
        self._new_spans: dict[str | None, list[IndexedSpan]] = defaultdict(list)
        self._decodes_tags = decodes_tags

    def add(self, trace: int, spans: Trace) -> int:
        """Add spans of one trace, as many as there is room for, and return how many."""
        bodies, new_spans, size = self.new_traces.setdefault(trace, []), self._new_spans, self.bytes
        room, added = MAX_BLOCK_SPANS - self.spans, 0
        for body, span in spans:
            if added == room or size >= MAX_BLOCK_BYTES:
                break
            added += 1
            size += len(body)
            bodies.append(body)
            endpoint = span.local_endpoint
            new_spans[endpoint.service_name if endpoint else None].append(span)
        self.spans += added
        self.bytes = size
        self.is_full = added == room or size >= MAX_BLOCK_BYTES
        return added

    def digest(self) -> set[str]:
        """Bring the digests up to date, and return the services that have new spans."""
        changed = set()
        for name, spans in self._new_spans.items():
            service = (name or "").lower()
            changed.add(service)
            digest = self.services.get(service)
            if digest is None:
                digest = self.services[service] = Digest(self._decodes_tags)
            digest.add(spans)
        self._new_spans.clear()
        return changed

    def next_body(self, ends: bool) -> tuple[Iterable[bytes], bool]:
        """Return the spans of the body to store, and whether it replaces the bodies that are stored.

        `ends` says that the block gets no more spans.
        """
        replaces = self.parts >= MAX_OPEN_PARTS or (ends and self.parts > 0)
        if not replaces:
            return chain.from_iterable(self.new_traces.values()), False
        old, new = self._stored_traces, self.new_traces
        traces = (old.get(trace, []) + new.get(trace, []) for trace in old | new)
        return chain.from_iterable(traces), True

    def stored(self, replaced: bool) -> None:
        """Note that the body of `next_body` is stored, and that the block goes on."""
        self.parts = 1 if replaced else self.parts + 1
        for trace, bodies in self.new_traces.items():
            self._stored_traces.setdefault(trace, []).extend(bodies)
        self.new_traces = {}

    def terms(self) -> dict[str, list[bytes]]:
        """Return the terms of the spans by service, after `digest`."""
        try:
            return {name: digest.terms() for name, digest in self.services.items()}
        except SpacedTagsError:
            return self._with_decoded_tags().terms()

    def _with_decoded_tags(self) -> OpenBlock:
        block = OpenBlock(self.id, decodes_tags=True)
        for traces in (self._stored_traces, self.new_traces):
            for trace, bodies in traces.items():
                block.add(trace, [pair for body in bodies for pair in read_spans(body)])
        block.digest()
        return block
