"""Spans of the work on records that were taken out of a queue, until the taker takes the next."""

from __future__ import annotations

import sys
import weakref
from _thread import get_ident
from contextvars import ContextVar
from types import FrameType
from typing import Any

from kaspan.interceptor.failures import pass_on, record_failure
from kaspan.interceptor.functions.spans import FunctionSpan, first_of, records_in
from kaspan.interceptor.handover.hand_overs import HandOvers, open_calls

_QUEUES = ("queue", "asyncio.queues", "asyncio.tasks", "asyncio.timeouts")
"""Modules whose frames are between a queue's method and the function that takes from the queue."""

_MAX_FRAMES = 8


class Taken:
    """The span of the work on a record that was taken from a queue, current in the taker's thread or task.

    It ends when the taker asks that queue for the next record, calls `task_done()`, or takes a record from
    another queue; when the record is freed; or when the thread or task ends: at the first of these. It does
    not end when the taker takes something else from another queue, such as a connection from a pool.
    """

    __slots__ = ("_call", "_queue", "_taker")

    def __init__(self, call: FunctionSpan, queue: Any) -> None:
        self._call: FunctionSpan | None = call
        self._queue = weakref.ref(queue)
        self._taker = _taker()
        open_calls.add(call)
        call.enter()

    def was_taken_by_caller(self, queue: Any) -> bool:
        """Whether the caller took the record, and from `queue` if that is not None. A task with a copy of the
        taker's context did not.
        """
        return self._taker == _taker() and (queue is None or self._queue() is queue)

    @property
    def has_ended(self) -> bool:
        """Whether the span has been reported."""
        return self._call is None

    def end(self) -> None:
        """End the span, once. Never raises."""
        call, self._call = self._call, None
        if call is not None:
            call.leave()
            call.end()
            open_calls.discard(call)


class _Holder:
    """Ends the span when its owner is freed: the record, or the taker's context."""

    __slots__ = ("taken",)

    def __init__(self, taken: Taken) -> None:
        self.taken = taken

    def __del__(self) -> None:
        try:
            self.taken.end()
        except Exception as error:  # noqa: BLE001
            pass_on("ending the work on a record from a queue", error)


_holder: ContextVar[_Holder | None] = ContextVar("kaspan_taken", default=None)


def end_taken(queue: Any = None) -> None:
    """End the span of the record that the caller took last; if `queue` is not None, only if it was taken
    from there. Never raises.
    """
    holder = _holder.get()
    if holder is None:
        return
    try:
        if holder.taken.was_taken_by_caller(queue):
            holder.taken.end()
            _holder.set(None)
    except Exception as error:  # noqa: BLE001
        record_failure("ending the work on a record from a queue", error)


def take(hand_overs: HandOvers, queue: Any, item: Any) -> None:
    """Begin the span for an item that was taken from a queue, if it is or holds a record. Never raises."""
    try:
        records = hand_overs.records_of(item)
        frame = _taking_frame() if records else None
        if frame is None:
            return
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
        traced_function = hand_overs.traced_function(frame.f_globals.get("__name__") or "", name)
        end_taken()
        call = hand_overs.calls.begin(traced_function, records, {})
        if call is None:
            return
        taken = Taken(call, queue)
        lists = records_in(records[0])
        _end_with(first_of(lists) if lists else records[0], taken)
        _holder.set(_Holder(taken))
    except BaseException as error:  # noqa: BLE001 (the item must reach the application)
        pass_on("tracing a record from a queue", error)


def _end_with(record: Any, taken: Taken) -> None:
    """End a span when its record is freed. A tuple has no weak references, but its attributes are freed with
    it. Several takers may work on the record at once.
    """
    # Only atomic steps: two threads may take the record at the same moment.
    holders = record.__dict__.setdefault("kaspan_taken", {})
    for key, holder in list(holders.items()):
        if holder.taken.has_ended:
            holders.pop(key, None)
    holders[id(taken)] = _Holder(taken)


def _taking_frame() -> FrameType | None:
    """Return the frame of the function that takes from a queue; None if it is not known."""
    coroutine = _task().get_coro() if _task() is not None else None
    frame: FrameType | None = sys._getframe(3)  # skips take() and the patched method
    for _ in range(_MAX_FRAMES):
        if frame is None or frame.f_globals.get("__name__") not in _QUEUES:
            break
        if frame is getattr(coroutine, "cr_frame", None):
            return None  # a task that only waits for the queue
        frame = frame.f_back
    is_asyncios = frame is not None and str(frame.f_globals.get("__name__")).startswith("asyncio.")
    return None if is_asyncios else frame


def _task() -> Any:
    asyncio: Any = sys.modules.get("asyncio")
    return None if asyncio is None or asyncio._get_running_loop() is None else asyncio.current_task()


def _taker() -> int:
    """Return an id of the running task, green thread or thread."""
    task = _task()
    if task is not None:
        return id(task)
    greenlet: Any = sys.modules.get("greenlet")
    return get_ident() if greenlet is None else id(greenlet.getcurrent())
