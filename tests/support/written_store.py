"""A span store on disk whose partitions a test chooses."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from kaspan.store.indexed_span import read_spans
from kaspan.store.open_block import Trace
from kaspan.store.partition_writer import PartitionWriter, hour_of
from kaspan.store.partitions import Partition
from kaspan.store.schema import trace_key


def write_partition(
    directory: str,
    number: int,
    commits: Iterable[Sequence[bytes]],
    seal: bool,
    autocomplete_keys: Sequence[str] = (),
) -> PartitionWriter:
    """Write JSON spans into a partition, some in each commit, and return it, open unless it is sealed."""
    os.makedirs(directory, exist_ok=True)
    partition = PartitionWriter(Partition(number, directory), autocomplete_keys, now_s=0.0)
    for spans in commits:
        held: dict[int, dict[int, Trace]] = {}
        for payload, span in read_spans(b",".join(spans)) if spans else ():
            traces = held.setdefault(hour_of(span.timestamp), {})
            traces.setdefault(trace_key(span.trace_id), []).append((payload, span))
        partition.write(held)
    if seal:
        partition.seal(now_s=0.0)
        partition.close()
    return partition
