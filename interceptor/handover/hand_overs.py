"""Follow records to other threads, tasks and green threads: a call that gets one is a span in its trace.

`points` patches the places where applications hand work over, and `queues` follows items of queues. Both use
this module: it finds records among arguments, and makes spans of the calls that get them.
"""

from __future__ import annotations

import functools
import gc
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import Context
from itertools import islice
from types import BuiltinFunctionType, CellType, CodeType, CoroutineType, FrameType, FunctionType
from typing import Any

from kaspan.interceptor import at_exit
from kaspan.interceptor.accelerate import accelerated
from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.functions import decorators
from kaspan.interceptor.functions.decorators import is_wrapped
from kaspan.interceptor.functions.spans import FunctionSpan, FunctionSpans, is_record, records_in
from kaspan.interceptor.functions.traced_function import TracedFunction
from kaspan.interceptor.handover import arguments
from kaspan.interceptor.handover.arguments import MAX_VALUES, may_hold
from kaspan.interceptor.kafka.record_list import RecordList
from kaspan.interceptor.tracing.span import RecordSpan

_MAX_ATTRIBUTES = 64
_MAX_DEPTH = 4
_IS_HEAP_TYPE = 1 << 9
_CONTAINERS = (list, tuple, dict, set, frozenset, deque, type)
_VARARGS, _VARKEYWORDS = 0x04, 0x08  # of a code object's flags
_MAX_FUNCTIONS = 1000
_OF_OPENTELEMETRY = "opentelemetry.instrumentation.threading"
_PLACEHOLDER = getattr(functools, "Placeholder", object())  # among partial's arguments, from Python 3.14 on

Handed = tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]
"""A function and its arguments."""


types: set[type] = set()
"""The class of records and of their containers; empty if no records are followed."""

types_in_coroutines: set[type] = set()
"""The same, with the types by which a coroutine refers to its arguments."""


is_one, may_be_given = accelerated(arguments.is_one), accelerated(arguments.may_be_given)
# Before 3.11 a coroutine refers to its frame, and only that to the arguments.
refers_to = accelerated(arguments.refers_to) if sys.version_info >= (3, 11) else arguments.refers_to


open_calls: set[FunctionSpan] = set()
"""Calls with an open span: they may still run when the process ends."""


def end_open_calls() -> None:
    """Report every open span, when the process ends. Never raises."""
    for call in list(open_calls):
        call.end()


at_exit.add(at_exit.HAND_OVERS, end_open_calls)


def follow_class(record_class: type) -> None:
    """Look for records of this class from now on."""
    types.update((record_class, list, tuple, dict, RecordList))
    types_in_coroutines.update((*types, CoroutineType, CellType))


def follow_no_class() -> None:
    """Look for no records any more."""
    types.clear()
    types_in_coroutines.clear()


class HandOvers:
    """Finds records among arguments, and makes spans of the calls that get them."""

    def __init__(self, calls: FunctionSpans) -> None:
        self.calls = calls
        self._awaited: weakref.WeakSet[CoroutineType[Any, Any, Any]] = weakref.WeakSet()
        """Coroutines that another task awaits, as in `asyncio.wait_for`: the span is that task's."""
        self._traced_functions: dict[tuple[str, str], TracedFunction] = {}

    def records_of(self, value: Any) -> tuple[Any, ...]:
        """Return the records that a value is or contains; for a batch, a list of records, the list."""
        kind = type(value)
        if is_record(value):
            return (value,)
        if kind is RecordList:  # its own loop would open the records' spans
            return (value,) if list.__len__(value) else ()
        if kind not in (list, tuple, dict) or not may_hold(types, value):
            return ()
        if kind is not tuple and records_in(value):  # a batch, or what poll() returned
            return (value,)
        entries = value.values() if kind is dict else value
        return tuple(filter(is_record, islice(entries, MAX_VALUES)))

    def follow(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Handed | None:
        """Return what to call instead of `function(*args, **kwargs)`; None if it gets no record."""
        return self._follow(function, args, kwargs, 0)

    def _follow(
        self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], depth: int
    ) -> Handed | None:
        if depth < _MAX_DEPTH:
            if type(function) is functools.partial and not any(one is _PLACEHOLDER for one in function.args):
                keywords = {**function.keywords, **kwargs}
                return self._follow(function.func, (*function.args, *args), keywords, depth + 1)
            if args and _is_run_of_context(function):
                inner = self._follow(args[0], args[1:], kwargs, depth + 1)
                return inner and (function, (inner[0], *inner[1]), inner[2])
            cell = _cell_of_opentelemetry(function)
            if cell is not None:
                inner = self._follow(cell.cell_contents, args, kwargs, depth + 1)
                return inner and (_rebuilt(function, cell, inner[0]), inner[1], inner[2])
        if is_wrapped(function):
            return None
        records = self._records_among((*args, *kwargs.values()) or _enclosed(function))
        return (HandedOver(self, function, records), args, kwargs) if records else None

    def span_in_scope(self) -> RecordSpan | None:
        """Return the span of the record that the caller works on, in a loop or function; None without one."""
        current = self.calls.tracing.scope.current_span()
        return (current.record or current) if isinstance(current, RecordSpan) else None

    def follow_within(
        self, span: RecordSpan, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Handed | None:
        """Do what `follow` does for a call in the scope of a record's span. Looks for that record also in
        attributes of the arguments, alone or in a list, tuple or dict, as in nameko's worker context.
        """
        for value in (*args, *kwargs.values()):
            # An instance of a Python class refers to its attributes only. Not containers.
            if type(value).__flags__ & _IS_HEAP_TYPE and not issubclass(type(value), _CONTAINERS):
                record = self._record_within(value, span)
                if record is not None:
                    return HandedOver(self, function, (record,)), args, kwargs
        return None

    def _record_within(self, value: Any, span: RecordSpan) -> Any:
        # Not by __dict__: some classes compute it, and creating it slows other objects down.
        left = deque(gc.get_referents(value)[:_MAX_ATTRIBUTES])
        for _ in range(_MAX_ATTRIBUTES):
            if not left:
                break
            held = left.popleft()
            if is_record(held):
                if held.kaspan_span is span:
                    return held
            elif type(held) in (dict, list, tuple):
                left.extend(islice(held.values() if type(held) is dict else held, MAX_VALUES))
        return None

    def _records_among(self, values: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(record for value in values if is_one(types, value) for record in self.records_of(value))

    def begin_task(self, coroutine: CoroutineType[Any, Any, Any], depth: int = 0) -> FunctionSpan | None:
        """Start the span of a coroutine that has not begun; None if it was not called with a record."""
        if not refers_to(types_in_coroutines, coroutine):
            return None
        frame = coroutine.cr_frame
        if frame is None or frame.f_globals is vars(decorators) or _has_begun(coroutine):
            return None
        if coroutine in self._awaited:
            return None
        values = _arguments(coroutine.cr_code, frame)
        for value in values:
            if type(value) is CoroutineType:
                call = self.begin_task(value, depth + 1) if depth < _MAX_DEPTH else None
                if call is not None:
                    self._awaited.add(value)
                    return call
            elif is_one(types, value) and self.records_of(value):
                traced_function = self.traced_function(
                    frame.f_globals.get("__name__") or "", coroutine.__qualname__
                )
                return self.calls.begin(traced_function, self._records_among(values), {})
        return None

    def traced_function(self, module: str, qualified: str) -> TracedFunction:
        """Return the TracedFunction of a function, which has the name of its spans."""
        traced_function = self._traced_functions.get((module, qualified))
        if traced_function is None:
            if len(self._traced_functions) >= _MAX_FUNCTIONS:
                self._traced_functions.clear()
            traced_function = TracedFunction(qualified.rpartition("<locals>.")[2], f"{module}.{qualified}")
            self._traced_functions[module, qualified] = traced_function
        return traced_function


class HandedOver:
    """Wraps a function that gets records: its call is a span in the first record's trace. Looks like it."""

    __slots__ = ("__wrapped__", "_hand_overs", "_records")

    def __init__(self, hand_overs: HandOvers, function: Any, records: tuple[Any, ...]) -> None:
        self._hand_overs = hand_overs
        self.__wrapped__ = function
        self._records = records

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function in a span."""
        function = self.__wrapped__
        call = self._begin(function)
        if call is None:
            return function(*args, **kwargs)
        open_calls.add(call)
        try:
            return call.run(function, args, kwargs)
        finally:
            open_calls.discard(call)

    def _begin(self, function: Any) -> FunctionSpan | None:
        try:
            named = function.func if isinstance(function, functools.partial) else function
            qualified = getattr(named, "__qualname__", None) or type(named).__qualname__
            module = getattr(named, "__module__", None) or ""
            hand_overs = self._hand_overs
            return hand_overs.calls.begin(
                hand_overs.traced_function(module, str(qualified)), self._records, {}
            )
        except Exception as error:  # noqa: BLE001
            record_failure("tracing a call that was handed over", error)
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__wrapped__, name)

    def __repr__(self) -> str:
        return repr(self.__wrapped__)


def _is_run_of_context(function: Any) -> bool:
    return (
        type(function) is BuiltinFunctionType
        and type(function.__self__) is Context
        and function.__name__ == "run"
    )


def _cell_of_opentelemetry(function: Any) -> CellType | None:
    """Return the cell in which OpenTelemetry's instrumentation of threads keeps the wrapped function."""
    if type(function) is FunctionType and function.__module__ == _OF_OPENTELEMETRY:
        names = function.__code__.co_freevars
        if "original_func" in names and function.__closure__:
            return function.__closure__[names.index("original_func")]
    return None


def _rebuilt(function: Any, cell: CellType, inner: Any) -> Any:
    """Copy OpenTelemetry's wrapper around another function, so that kaspan's span is inside its context."""
    cells = tuple(CellType(inner) if one is cell else one for one in function.__closure__)
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, cells
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _enclosed(function: Any) -> Iterator[Any]:
    """Yield what a function, such as a lambda, has in its defaults and closure."""
    if type(function) is FunctionType:
        yield from function.__defaults__ or ()
        yield from map(_contents, function.__closure__ or ())


def _contents(value: Any) -> Any:
    try:
        return value.cell_contents if type(value) is CellType else value
    except ValueError:  # it is empty
        return None


def _arguments(code: CodeType, frame: FrameType) -> list[Any]:
    count = code.co_argcount + code.co_kwonlyargcount
    count += bool(code.co_flags & _VARARGS) + bool(code.co_flags & _VARKEYWORDS)
    variables = frame.f_locals
    found = [variables[name] for name in code.co_varnames[:count] if name in variables]
    if sys.version_info < (3, 13):
        variables.clear()  # a copy that would keep the arguments as long as the frame exists
    return found


def _has_begun(coroutine: CoroutineType[Any, Any, Any]) -> bool:
    if sys.version_info >= (3, 11):
        return coroutine.cr_running or coroutine.cr_suspended
    return coroutine.cr_frame is None or coroutine.cr_frame.f_lasti >= 0
