"""Follow records into asyncio's tasks, whose coroutine gets a record, and through queues between tasks."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.functions.spans import FunctionSpan
from kaspan.interceptor.handover.hand_overs import is_one, open_calls, refers_to, types, types_in_coroutines
from kaspan.interceptor.handover.points import make_task_done, process, replace
from kaspan.interceptor.handover.queues import end_taken, take


def patch_asyncio_base_events(module: Any) -> None:
    """Follow the tasks of asyncio's event loops."""
    replace(module.BaseEventLoop, "create_task", _make_create_task)


def patch_uvloop(module: Any) -> None:
    """Follow the tasks of uvloop's event loops."""
    replace(module.Loop, "create_task", _make_create_task)


def _make_create_task(original: Any) -> Any:
    def create_task(self: Any, coro: Any, **kwargs: Any) -> Any:
        if type(coro) is CoroutineType and refers_to(types_in_coroutines, coro):
            return _follow_task(original, self, coro, kwargs)
        return original(self, coro, **kwargs) if kwargs else original(self, coro)

    return create_task


def _follow_task(original: Any, loop: Any, coroutine: Any, kwargs: dict[str, Any]) -> Any:
    context = kwargs.get("context")
    # Other tasks may share a context that the application passes; no other task has that of asyncio.run().
    is_runner = context is not None and sys._getframe(2).f_globals.get("__name__") == "asyncio.runners"
    call = _begin_task(coroutine) if context is None or is_runner else None
    if call is None:
        return original(loop, coroutine, **kwargs)
    run: Any = _call if context is None else context.run
    run(call.enter)
    try:
        task = original(loop, coroutine, **kwargs)  # runs in `context`, or else in a copy of this one
    except BaseException:
        run(call.leave)
        raise
    if not is_runner:
        call.leave()
        call.span.outer_context = (
            None  # else tasks that start the next one for ever would make an endless chain
        )
    open_calls.add(call)
    try:
        task.add_done_callback(functools.partial(_end_task, call), context=context)
    except Exception as error:  # noqa: BLE001
        record_failure("following a task", error)
    return task


def _call(function: Callable[[], None]) -> None:
    function()


def _begin_task(coroutine: CoroutineType[Any, Any, Any]) -> FunctionSpan | None:
    try:
        hand_overs = process.hand_overs
        return None if hand_overs is None else hand_overs.begin_task(coroutine)
    except Exception as error:  # noqa: BLE001
        record_failure("looking for a record among a task's arguments", error)
        return None


def _end_task(call: FunctionSpan, task: Any) -> None:
    # Not task.exception(): after that asyncio does not warn of an exception that was never retrieved.
    error = getattr(task, "_exception", None)
    if isinstance(error, Exception):
        call.fail(error)
    call.leave()  # left already, except in asyncio.run(), where it stayed current in the runner's context
    call.end()
    open_calls.discard(call)


def patch_asyncio_queues(module: Any) -> None:
    """Follow records that a task takes out of a queue."""

    def make(original_get_nowait: Any) -> Any:
        def get_nowait(self: Any) -> Any:
            end_taken(self)
            item = original_get_nowait(self)
            if is_one(types, item) and process.hand_overs is not None:
                take(process.hand_overs, self, item)
            return item

        return get_nowait

    def make_get_loop(original: Any) -> Any:
        get = module.Queue.get.__code__

        def _get_loop(self: Any) -> Any:
            if sys._getframe(1).f_code is get:  # it is about to wait
                end_taken(self)
            return original(self)

        return _get_loop

    replace(module.Queue, "_get_loop", make_get_loop)
    replace(module.Queue, "get_nowait", make)
    replace(module.Queue, "task_done", make_task_done)
