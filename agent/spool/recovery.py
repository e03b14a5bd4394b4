"""Puts what can be read of a damaged spool into the spool in use."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, TypeVar

import msgspec

from kaspan.agent.batch import SEPARATOR, Batch, split
from kaspan.agent.spool.database import SpoolFull
from kaspan.agent.spool.dead_letters import DeadLetters
from kaspan.agent.spool.lock import SpoolError
from kaspan.agent.spool.pages import DeadRow, Pages, Row
from kaspan.agent.spool.spool import Spool

_TRANSACTION_BYTES = 4 * 1024 * 1024

_Row = TypeVar("_Row", Row, DeadRow)


class Recovered(NamedTuple):
    """How many spans and dead letters were put back, and how many spans in the rows found are damaged."""

    spans: int = 0
    dead_letters: int = 0
    damaged_spans: int = 0


def recover(spool: Spool, path: str) -> Recovered:
    """Put the spans that some sender had not passed, and the dead letters, of a damaged file into a spool.

    Blocks while it reads and stores. Raises OSError if the file cannot be read, SpoolError if it is the spool
    in use, and SpoolFull if its spans do not fit; where the size is known, before anything is stored.
    """
    if os.path.samefile(path, spool.path):
        raise SpoolError(f"{path} is the spool in use; name a damaged spool that was moved aside")
    with closing(Pages(path)) as pages:
        cursors = pages.cursors()
        needed = sum(len(row.body) for row in pages.waiting(cursors))
        if spool.totals.bytes + needed > spool.max_bytes:
            raise SpoolFull(
                f"{path} holds {needed} bytes of spans, the spool {spool.totals.bytes}, and "
                f"agent.spool.max_bytes is {spool.max_bytes}; deliver the spans in the spool first, or set "
                "agent.spool.max_bytes higher"
            )
        spans = damaged = 0
        for rows in _portions(pages.waiting(cursors), lambda row: len(row.body)):
            batches: defaultdict[str | None, list[Batch]] = defaultdict(list)
            for row in rows:
                pending = _pending(row, cursors, spool.senders)
                if not pending:
                    continue  # its sender is not configured any more
                batch = _sound(row)
                damaged += max(0, row.spans - batch.spans)
                spans += batch.spans
                for sender in pending if batch.spans else ():
                    batches[sender].append(batch)
            for sender, found in batches.items():
                spool.put_back(found, sender)
        letters = _recover_dead_letters(spool, pages)
    spool.wake()
    return Recovered(spans, letters, damaged)


def _pending(row: Row, cursors: Mapping[str, int], senders: Sequence[str]) -> list[str | None]:
    """Return the senders that have not passed a row; [None] if that is all of them."""
    pending = [name for name in senders if row.sender in (None, name) and row.id > cursors.get(name, 0)]
    return [None] if len(pending) == len(senders) else [*pending]


def _sound(row: Row) -> Batch:
    """Return the undamaged spans of a row."""
    pieces = split(row.body)
    sound = pieces if _are_objects(row.body) else [piece for piece in pieces if _are_objects(piece)]
    return Batch(len(sound), SEPARATOR.join(sound))


def _are_objects(joined: bytes) -> bool:
    try:
        return all(isinstance(span, dict) for span in msgspec.json.decode(b"[" + joined + b"]"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False


def _recover_dead_letters(spool: Spool, pages: Pages) -> int:
    found = (row for row in pages.rows() if isinstance(row, DeadRow))
    kept = 0
    for rows in _portions(found, lambda row: len(row.span)):
        refused: defaultdict[str, list[tuple[str, bytes]]] = defaultdict(list)
        for row in rows:
            refused[row.sender].append((row.reason, row.span))
        kept += sum(DeadLetters(spool).add(sender, letters) for sender, letters in refused.items())
    return kept


def _portions(rows: Iterable[_Row], size: Callable[[_Row], int]) -> Iterator[list[_Row]]:
    """Yield lists of rows, each for one transaction."""
    portion: list[_Row] = []
    held_bytes = 0
    for row in rows:
        portion.append(row)
        held_bytes += size(row)
        if held_bytes >= _TRANSACTION_BYTES:
            yield portion
            portion, held_bytes = [], 0
    if portion:
        yield portion
