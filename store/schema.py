"""The files and tables of a span store. Writer and reader agree here.

A store is a directory:

    lock                       held by the one process that writes; its text is that process's pid
    0000000007.spans           a partition, an SQLite file; numbers grow, and are never used again
    0000000007.spans-wal, -shm SQLite's, beside the partition that is written
    0000000005.spans.damaged   a partition that cannot be read, moved aside

Partitions:

- Only the newest partition is written, in WAL mode. Every older one is *sealed*: it never changes again, and
  disappears only as a whole, by retention. A sealed partition without a `-wal` file, or with an empty one, is
  complete in its file and may be opened with `immutable=1`; where a reader kept SQLite from moving its
  write-ahead log into the file, it is opened as the newest one, with `mode=ro`.
- Files derived from a sealed partition (such as counts of links) have its name and another suffix in place
  of `.spans`; they count towards `max_bytes` and are deleted with it.
- `user_version` is FORMAT. The one row of `state` says when the partition was made, in seconds since the
  epoch by the writer's clock, and whether it is sealed. When it was last written is its file's time of
  modification, which the writer moves when it sees the clock jump.

Blocks:

- A span is in exactly one block, unless it was delivered twice: then it may be in two, or twice in one. A
  reader takes equal spans of a trace once.
- `blocks.id` grows with arrival. A block has up to MAX_BLOCK_SPANS spans whose timestamps are in the same
  hour, or spans of any time (where too many hours come at once), or only spans without a timestamp.
- `min_us` and `max_us` bound the timestamps of the block's spans, those that have one; both are null if
  none has.
- `durations` has bit n set if a span lasts at least 2^n and less than 2^(n+1) microseconds: `duration_bit`.
- The JSON of a block's spans is in its `bodies`: rows with ids from block * MAX_PARTS, in order; each is a
  zstd frame of JSON spans joined by commas (blocks.py). Spans are as they came, not in normal form; each is
  a JSON object with a trace id, and a few may have values that Zipkin would refuse. All spans of a trace
  stand together in each body.
- While `is_open` is 1, a block gets more spans: more parts, more rows in `traces` and `services`, wider
  bounds. Its terms are not in the index: it must be read to know. Few blocks are open at a time.
- `traces` has each pair of a trace (`trace_key` of its id) and a block once.
- `services` has for each service of the block's spans (`localEndpoint.serviceName` in lower case) what
  `blocks` has for all of them.

Names, in lower case as Zipkin keeps them, each once in a partition: `service_names`, `span_names` and
`remote_service_names` by service, `tag_values` for the keys in `autocomplete_keys`.

Terms: what a search may ask for beside service and time, in the tables of terms.py. Each block that is not
open has either a row in `block_terms` or is in exactly one group.
"""

from __future__ import annotations

from binascii import unhexlify

from kaspan.store import terms

FORMAT = 1
"""The version of these tables."""

MAX_BLOCK_SPANS = 1024
MAX_TIMESTAMP_US = 2**62
"""What is later has no time for the store; the bounds of blocks are SQLite's integers."""
MAX_PARTS = 64
"""More than the parts of one block: the ids of its bodies are block * MAX_PARTS and those after it."""

TABLES = (
    "create table state (first_s real not null, is_sealed integer not null)",
    """create table blocks (
        id integer primary key, is_open integer not null, spans integer not null, bytes integer not null,
        min_us integer, max_us integer, durations integer not null)""",
    "create table bodies (id integer primary key, body blob not null)",
    """create table traces (
        trace integer not null, block integer not null, primary key (trace, block)) without rowid""",
    "create table service_names (id integer primary key, name text not null unique)",
    """create table services (
        service integer not null, block integer not null, spans integer not null,
        min_us integer, max_us integer, durations integer not null,
        primary key (service, block)) without rowid""",
    """create table span_names (
        service integer not null, name text not null, primary key (service, name)) without rowid""",
    """create table remote_service_names (
        service integer not null, name text not null, primary key (service, name)) without rowid""",
    """create table tag_values (
        key text not null, value text not null, primary key (key, value)) without rowid""",
    *terms.TABLES,
)
"""Service ids are those of `service_names`, in this partition only. `bytes` is the size of the JSON."""


def trace_key(trace_id: str) -> int:
    """Return the low 64 bits of a trace id of 1 to 32 hex digits, as SQLite's signed integer.

    Raises ValueError if it is anything else.
    """
    digits = len(trace_id)
    if digits not in (16, 32):
        if not 0 < digits < 32:
            raise ValueError(f"a trace id of {digits} characters")
        trace_id = trace_id.zfill(32)
    return int.from_bytes(unhexlify(trace_id)[-8:], "big", signed=True)


def duration_bit(duration_us: int) -> int:
    """Return the bit of a duration in a mask of durations; 0 for no duration.

    What is too long for Zipkin counts as 2^62.
    """
    return 1 << min(duration_us.bit_length(), 63) >> 1 if duration_us > 0 else 0
