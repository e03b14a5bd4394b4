"""Patch the places where applications hand work to another thread, task or green thread.

In executors and threads the patch is where the work begins, so what the application passes, and what a
debugger sees in a queue, stays as it is. Without a record among the arguments, each patch only calls the
original.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.functions.spans import FunctionSpans
from kaspan.interceptor.handover.hand_overs import (
    Handed,
    HandOvers,
    follow_class,
    follow_no_class,
    is_one,
    may_be_given,
    types,
)
from kaspan.interceptor.handover.queues import end_taken, take
from kaspan.interceptor.import_hooks import Imports

if TYPE_CHECKING:
    from kaspan.interceptor.tracing.span import RecordSpan
    from kaspan.interceptor.tracing.tracing import Tracing

_PATCHED = "_kaspan_patched"


class _Process:
    """How this process follows records: not at all before its first consumer."""

    hand_overs: HandOvers | None = None
    is_patched = False


process = _Process()


def follow_records(tracing: Tracing, record_class: type, imports: Imports) -> None:
    """Follow the records of this class wherever they are handed over. Patches the places the first time."""
    found = process.hand_overs
    if found is None or found.calls.tracing is not tracing:
        found = HandOvers(FunctionSpans(tracing))
    process.hand_overs = found
    follow_class(record_class)
    if not process.is_patched:
        process.is_patched = True
        for name in (*_PATCHES, *_PATCHED_ELSEWHERE):
            imports.after(name, _patch)


def follow_no_records() -> None:
    """Follow no records any more: all patched places only call the original."""
    process.hand_overs = None
    follow_no_class()


def handed_over(function: Any, args: Any, kwargs: Any, span: RecordSpan | None = None) -> Handed | None:
    """Return what to call instead of `function(*args, **kwargs)`; None if it gets no record. Never raises.

    With the `span` of a record, that record is also looked for in attributes of the arguments.
    """
    hand_overs = process.hand_overs
    if hand_overs is None or function is None:
        return None
    try:
        if span is not None:
            return hand_overs.follow_within(span, function, args, kwargs)
        return hand_overs.follow(function, args, kwargs)
    except Exception as error:  # noqa: BLE001
        record_failure("looking for a record among arguments", error)
        return None


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace a method or function, once, by what `make` returns for it. Not in a compiled class."""
    original = getattr(owner, name)
    if not hasattr(original, _PATCHED):
        made = functools.wraps(original)(make(original))
        setattr(made, _PATCHED, True)
        with contextlib.suppress(TypeError):  # gevent's queues are compiled
            setattr(owner, name, made)


def _patch_executors(module: Any) -> None:
    def make(original_run: Any) -> Any:
        def run(self: Any) -> Any:
            if may_be_given(types, self.fn, self.args, self.kwargs):
                handed = handed_over(self.fn, self.args, self.kwargs)
                if handed is not None:
                    self.fn, self.args, self.kwargs = handed
            try:
                return original_run(self)
            finally:
                self = None  # as the original does: else an exception refers to itself, by this frame

        return run

    def make_of_context(original_run: Any) -> Any:
        def run(self: Any, context: Any) -> Any:
            # Not in a pool of interpreters, which pickles the task.
            if type(context).__module__ == module.__name__ and may_be_given(types, *self.task):
                self.task = handed_over(*self.task) or self.task
            try:
                return original_run(self, context)
            finally:
                self = None  # as in the run() above

        return run

    init = module._WorkItem.__init__.__code__
    make_of = {("future", "fn", "args", "kwargs"): make, ("future", "task"): make_of_context}
    known = make_of.get(init.co_varnames[1 : init.co_argcount])
    if known is None:
        raise TypeError("kaspan does not know the executors of this version")
    replace(module._WorkItem, "run", known)


def _patch_threads(module: Any) -> None:
    def make(original_run: Any) -> Any:
        def run(self: Any) -> None:
            if may_be_given(types, self._target, self._args, self._kwargs):
                handed = handed_over(self._target, self._args, self._kwargs)
                if handed is not None:
                    self._target, self._args, self._kwargs = handed  # the original deletes them
            original_run(self)

        return run

    def make_of_timer(original_run: Any) -> Any:
        def run(self: Any) -> None:
            handed = handed_over(self.function, self.args, self.kwargs)
            if handed is None:
                original_run(self)
                return
            original = self.function, self.args, self.kwargs
            self.function, self.args, self.kwargs = handed
            try:
                original_run(self)
            finally:
                self.function, self.args, self.kwargs = original

        return run

    replace(module.Thread, "run", make)
    replace(module.Timer, "run", make_of_timer)


def _patch_queues(module: Any) -> None:
    def make(original_get: Any) -> Any:
        def get(self: Any, block: Any = True, timeout: Any = None) -> Any:
            end_taken(self)
            item = original_get(self, block, timeout)
            if is_one(types, item) and process.hand_overs is not None:
                take(process.hand_overs, self, item)
            return item

        return get

    replace(module.Queue, "get", make)
    replace(module.Queue, "task_done", make_task_done)


def make_task_done(original: Any) -> Any:
    """Make a task_done() that ends the span of the record that the caller took from the queue."""

    def task_done(self: Any) -> Any:
        end_taken(self)
        return original(self)

    return task_done


def _patch(module: Any) -> None:
    name = module.__name__
    patch: Any = _PATCHES.get(name)
    if patch is None:
        patch = getattr(import_module(_PATCHED_ELSEWHERE[name]), f"patch_{name.replace('.', '_')}")
    patch(module)


_PATCHES: dict[str, Callable[[Any], None]] = {
    "concurrent.futures.thread": _patch_executors,
    "threading": _patch_threads,
    "queue": _patch_queues,
}
_PATCHED_ELSEWHERE = {
    "asyncio.base_events": "kaspan.interceptor.handover.tasks",
    "asyncio.queues": "kaspan.interceptor.handover.tasks",
    "uvloop": "kaspan.interceptor.handover.tasks",
    "eventlet.greenthread": "kaspan.interceptor.handover.green_threads",
    "eventlet": "kaspan.interceptor.handover.green_threads",
    "eventlet.greenpool": "kaspan.interceptor.handover.green_threads",
    "gevent": "kaspan.interceptor.handover.green_threads",
    "gevent.pool": "kaspan.interceptor.handover.green_threads",
}
"""Loaded once the application imports these modules."""
