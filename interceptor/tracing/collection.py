"""Keep a finalizer from crashing Python when it changes the context during a garbage collection.

Before Python 3.12 a collection begins wherever something is allocated, also inside ContextVar.set(). After it
set() goes on reading the context's mapping of variables, without a reference to it. So a finalizer that sets
a variable meanwhile, as the end of a loop does, frees what is being read (SIGSEGV in hamt_node_bitmap_clone).
A copy of the context shares that mapping, and keeps it.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from contextvars import Context, copy_context
from typing import Any

from kaspan.interceptor.accelerate import compiled

KEPT_COLLECTIONS = 100
"""How many collections a copy is kept for: several may begin in one ContextVar.set()."""


class _Collections:
    def __init__(self) -> None:
        self.count = 0
        self.is_under_way = False
        self.kept: deque[tuple[int, Context]] = deque()


_collections = _Collections()


def is_collecting() -> bool:
    """Whether a collection is under way."""
    return _collections.is_under_way


def note_collection(phase: str, info: Any) -> None:
    """Note that a collection begins or ends, as a callback in gc.callbacks."""
    del info
    _collections.is_under_way = phase == "start"
    if _collections.is_under_way:
        _collections.count += 1
        kept = _collections.kept
        while kept and kept[0][0] < _collections.count - KEPT_COLLECTIONS:
            kept.popleft()


def keep_context_if_collecting() -> bool:
    """Whether a collection is under way. If so, keeps a copy of the context for a while."""
    if _collections.is_under_way:
        _collections.kept.append((_collections.count, copy_context()))
    return _collections.is_under_way


if compiled is not None:
    is_collecting = compiled.is_collecting
    note_collection = compiled.note_collection
    keep_context_if_collecting = compiled.keep_context_if_collecting

if sys.version_info < (3, 12):
    gc.callbacks.append(note_collection)
