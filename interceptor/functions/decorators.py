"""Make calls of functions spans: `traced`, `process`, `next_span`, and wrappers for named functions.

Applications import this module whether they are traced or not. So it does not import OpenTelemetry, and
while the process is not traced a wrapper only calls its function.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kaspan.interceptor.functions.traced_function import TracedFunction

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.trace import Span

    from kaspan.interceptor.functions.spans import FunctionSpan, FunctionSpans

_F = TypeVar("_F", bound=Callable[..., Any])

# Flags of a code object. The module inspect names them, but takes 5 ms to import.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80 | 0x100, 0x200

_MARK = "_kaspan_traced_function"

_CACHED = type(functools.lru_cache(lambda: None))
_COMPILED = "cython_function_or_method"
_ALREADY_BOUND = (BuiltinFunctionType, MethodType)


class _Process:
    """How this process traces calls: not at all before tracing is switched on."""

    calls: FunctionSpans | None = None


_process = _Process()


def follow_calls(calls: FunctionSpans | None) -> None:
    """Make spans of calls from now on; stop with None."""
    _process.calls = calls


def _begin(
    traced_function: TracedFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> FunctionSpan | None:
    calls = _process.calls
    return None if calls is None else calls.begin(traced_function, args, kwargs)


@overload
def traced(name: _F) -> _F: ...
@overload
def traced(name: str = "") -> Callable[[_F], _F]: ...
def traced(name: Any = "") -> Any:
    """Make each call of the decorated function a span, named `name` or else after the function.

    If an argument is a record or a list of records, the span is in that record's trace, in any thread, pool
    or event loop; else it is a child of the current span. The function keeps its signature, result and
    exceptions, and stays sync, async, a generator or an async generator. In a process that is not traced it
    runs as it is. A class, a property and the like are returned as they are, with a warning.
    """
    if not isinstance(name, str):
        return traced("")(name)

    def decorate(function: Any) -> Any:
        if not (is_function(function) or _is_callable_object(function)):
            _warn_of(function)
            return function
        inner = getattr(function, "__func__", function)  # of a static or class method
        qualified = getattr(inner, "__qualname__", "") or type(inner).__name__
        module = getattr(inner, "__module__", None) or ""
        return wrap(
            function, TracedFunction(name or qualified.rpartition("<locals>.")[2], f"{module}.{qualified}")
        )

    return decorate


class process:  # noqa: N801 (used like a function)
    """Run the block `with process(record) as span:` in the record's context, as a span of its own.

    The span is named `name` or else `process <topic>`, and has no kind: the CONSUMER span is another one.
    `record` may be a list of records, a batch. An exception marks the span, and is raised. In a process that
    is not traced the block runs as it is, and `span` does nothing.
    """

    def __init__(self, record: object, name: str = "") -> None:
        self._record = record
        self._name = name
        self._call: FunctionSpan | None = None

    def __enter__(self) -> Span:
        calls = _process.calls
        if calls is not None:
            traced_function = TracedFunction(self._name or calls.name_of(self._record))
            self._call = calls.begin(traced_function, (self._record,), {})
            if self._call is not None:
                self._call.enter()
        from opentelemetry.trace import INVALID_SPAN, get_current_span

        return INVALID_SPAN if calls is None else get_current_span()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        call, self._call = self._call, None
        if call is not None:
            if isinstance(error, Exception):
                call.fail(error)
            call.leave()
            call.end()


def next_span(record: object, name: str = "") -> Span:
    """Start a child of the record's span, named `name` or else `process <topic>`. Its `end()` reports it.

    It does not become the current span: use OpenTelemetry's `trace.use_span(span, end_on_exit=True)`, or
    `process`, for that. In a process that is not traced the span does nothing.
    """
    calls = _process.calls
    if calls is not None:
        return calls.next_span(record, TracedFunction(name or calls.name_of(record)))
    from opentelemetry.trace import INVALID_SPAN

    return INVALID_SPAN


def is_wrapped(function: Any) -> bool:
    """Whether the function is wrapped already."""
    return _MARK in getattr(getattr(function, "__func__", function), "__dict__", ())


def is_function(found: Any, in_class: bool = False) -> bool:
    """Whether a wrapper function can replace an object with no other effect than spans.

    Not other descriptors (property, cached_property, partialmethod, singledispatchmethod, those of
    decorators): they do more than being called. Not callable objects: their type is seen, and they are
    pickled with their attributes. `in_class`: the object is an attribute of a class, where a function gets
    the instance.
    """
    if isinstance(found, (staticmethod, classmethod)):
        exact = type(found).__module__ in ("builtins", "abc")
        return exact and is_function(found.__func__)
    if type(found) in (FunctionType, MethodDescriptorType, _CACHED) or type(found).__name__ == _COMPILED:
        return True
    if type(found) in _ALREADY_BOUND:
        # Not object.__new__ and the like: Python compares them to see whether a class has its own.
        return not (in_class and found.__name__.startswith("__"))
    return not in_class and isinstance(
        found, FunctionType
    )  # a decorator's proxy, whose __class__ is that of a function


def _is_callable_object(found: Any) -> bool:
    is_descriptor = hasattr(type(found), "__get__") and not isinstance(found, functools.partial)
    return callable(found) and not isinstance(found, type) and not is_descriptor


def _warn_of(found: Any) -> None:
    from kaspan.interceptor.failures import log

    log.warning(
        "kaspan: @traced is put on a %s, which is not a function; it is not traced (put @traced below the "
        "decorator that makes it, directly above the function)",
        "class" if isinstance(found, type) else type(found).__name__,
    )


def as_attribute(found: Any, traced: Any) -> Any:
    """Return the attribute for a class: a static method if the object that it replaces gets no instance."""
    return staticmethod(traced) if type(found) in _ALREADY_BOUND else traced


def wrap(function: Any, traced_function: TracedFunction) -> Any:
    """Wrap a function, static method or class method; return it as it is if it is wrapped already."""
    if is_wrapped(function):
        return function
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(wrap(function.__func__, traced_function))
    flags = _flags(function)
    if flags & _ASYNC_GENERATOR:
        made = _async_generator(function, traced_function)
    elif flags & _COROUTINE:
        made = _coroutine(function, traced_function)
    elif flags & _GENERATOR:
        made = _generator(function, traced_function)
    else:
        made = _function(function, traced_function)
    # The function's other attributes, such as cache_clear() of functools.lru_cache.
    for name in dir(function):
        if not name.startswith("__") and not hasattr(made, name):
            setattr(made, name, getattr(function, name))
    setattr(made, _MARK, traced_function)
    return made


def _flags(function: Any) -> int:
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    flags: int = getattr(code, "co_flags", 0)
    return flags


def _function(function: Any, traced_function: TracedFunction) -> Any:
    @functools.wraps(function)
    def traced_call(*args: Any, **kwargs: Any) -> Any:
        call = _begin(traced_function, args, kwargs)
        return function(*args, **kwargs) if call is None else call.run(function, args, kwargs)

    return traced_call


def _coroutine(function: Any, traced_function: TracedFunction) -> Any:
    @functools.wraps(function)
    async def traced_call(*args: Any, **kwargs: Any) -> Any:
        call = _begin(traced_function, args, kwargs)
        if call is None:
            return await function(*args, **kwargs)
        call.enter()
        try:
            return await function(*args, **kwargs)
        except Exception as error:
            call.fail(error)
            raise
        finally:
            call.leave()
            call.end()

    return traced_call


def _generator(function: Any, traced_function: TracedFunction) -> Any:
    @functools.wraps(function)
    def traced_call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = _begin(traced_function, args, kwargs)
        if call is None:
            return (yield from function(*args, **kwargs))
        steps = function(*args, **kwargs)
        step, argument = steps.send, None
        try:
            while True:
                # Current only while the generator runs, not while its caller does.
                call.enter()
                try:
                    value = step(argument)
                finally:
                    call.leave()
                try:
                    step, argument = steps.send, (yield value)
                except GeneratorExit:
                    call.enter()
                    try:
                        steps.close()
                    finally:
                        call.leave()
                    raise
                except BaseException as thrown:  # noqa: BLE001 (it is thrown into the generator)
                    step, argument = steps.throw, thrown
        except StopIteration as end:
            return end.value
        except Exception as error:
            call.fail(error)
            raise
        finally:
            call.end()

    return traced_call


def _async_generator(function: Any, traced_function: TracedFunction) -> Any:
    @functools.wraps(function)
    async def traced_call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = _begin(traced_function, args, kwargs)
        steps = function(*args, **kwargs)
        step, argument = steps.asend, None
        try:
            while True:
                if call is not None:
                    call.enter()
                try:
                    value = await step(argument)
                finally:
                    if call is not None:
                        call.leave()
                try:
                    step, argument = steps.asend, (yield value)
                except GeneratorExit:
                    await steps.aclose()
                    raise
                except BaseException as thrown:  # noqa: BLE001 (it is thrown into the generator)
                    step, argument = steps.athrow, thrown
        except StopAsyncIteration:
            return
        except Exception as error:
            if call is not None:
                call.fail(error)
            raise
        finally:
            if call is not None:
                call.end()

    return traced_call
