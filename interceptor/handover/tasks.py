"""Tasks of asyncio that are made of a coroutine which is called with a record, and queues between tasks."""

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
    """Follow tasks of asyncio's own loops."""
    replace(module.BaseEventLoop, "create_task", _make_create_task)


def patch_uvloop(module: Any) -> None:
    """Follow tasks of uvloop's loops."""
    replace(module.Loop, "create_task", _make_create_task)


def _make_create_task(plain: Any) -> Any:
    def create_task(self: Any, coro: Any, **kwargs: Any) -> Any:
        if type(coro) is CoroutineType and refers_to(types_in_coroutines, coro):
            return _follow_task(plain, self, coro, kwargs)
        return plain(self, coro, **kwargs)

    return create_task


def _follow_task(plain: Any, loop: Any, coroutine: Any, kwargs: dict[str, Any]) -> Any:
    context = kwargs.get("context")
    # A context that the application gives may be that of other tasks as well; that of asyncio.run() is not.
    is_runner = context is not None and sys._getframe(2).f_globals.get("__name__") == "asyncio.runners"
    call = _begin_task(coroutine) if context is None or is_runner else None
    if call is None:
        return plain(loop, coroutine, **kwargs)
    run: Any = _call if context is None else context.run
    run(call.enter)
    try:
        task = plain(loop, coroutine, **kwargs)  # begins in this context, or else in a copy of the caller's
    except BaseException:
        run(call.leave)
        raise
    if not is_runner:
        call.leave()
        call.span.outer_context = None  # what a task hands to the next one, for ever, is no chain of contexts
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
        record_failure("looking for a record that a task is given", error)
        return None


def _end_task(call: FunctionSpan, task: Any) -> None:
    # Not task.exception(), after which asyncio would not say that nobody has looked at it.
    error = getattr(task, "_exception", None)
    if isinstance(error, Exception):
        call.fail(error)
    call.leave()  # which it was already, but for asyncio.run(), all of whose tasks begin in its one context
    call.end()
    open_calls.discard(call)


def patch_asyncio_queues(module: Any) -> None:
    """Follow what is taken out of a queue between tasks."""

    def make(plain_get_nowait: Any) -> Any:
        def get_nowait(self: Any) -> Any:
            end_taken(self)
            item = plain_get_nowait(self)
            if is_one(types, item) and process.hand_overs is not None:
                take(process.hand_overs, self, item)
            return item

        return get_nowait

    def make_get_loop(plain: Any) -> Any:
        get = module.Queue.get.__code__

        def _get_loop(self: Any) -> Any:
            if sys._getframe(1).f_code is get:  # which is about to wait
                end_taken(self)
            return plain(self)

        return _get_loop

    replace(module.Queue, "_get_loop", make_get_loop)
    replace(module.Queue, "get_nowait", make)
    replace(module.Queue, "task_done", make_task_done)
