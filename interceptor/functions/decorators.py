"""Functions of the application as spans: the wrappers of those that are named, and the same as code.

Loaded by applications that import it themselves, traced or not. So nothing of OpenTelemetry is imported
here, and until tracing is switched on a wrapper asks one question and calls the function.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType, MethodType
from typing import TYPE_CHECKING, Any, TypeVar, overload

from kaspan.interceptor.functions.site import TracedFunction

if TYPE_CHECKING:
    from types import TracebackType

    from opentelemetry.trace import Span

    from kaspan.interceptor.functions.spans import FunctionSpan, FunctionSpans

_F = TypeVar("_F", bound=Callable[..., Any])

# Of a code object's flags; the module inspect, which names them, takes 5 ms to import.
_GENERATOR, _COROUTINE, _ASYNC_GENERATOR = 0x20, 0x80 | 0x100, 0x200

_MARK = "_kaspan_site"

_CACHED = type(functools.lru_cache(lambda: None))
_COMPILED = "cython_function_or_method"
_ALREADY_BOUND = (BuiltinFunctionType, MethodType)


class _Process:
    """What this process does with calls: nothing before tracing is switched on."""

    calls: FunctionSpans | None = None


_process = _Process()


def follow_calls(calls: FunctionSpans | None) -> None:
    """Make spans of calls from now on; None to stop."""
    _process.calls = calls


def _begin(site: TracedFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> FunctionSpan | None:
    calls = _process.calls
    return None if calls is None else calls.begin(site, args, kwargs)


@overload
def traced(name: _F) -> _F: ...
@overload
def traced(name: str = "") -> Callable[[_F], _F]: ...
def traced(name: Any = "") -> Any:
    """Make each call of the decorated function a span called `name`, else after the function.

    A function that is given a record, or a list of records, runs in that record's trace, in whatever thread,
    pool or event loop; any other one in the current span's. It keeps its signature, result and errors, and is
    sync, async, a generator or an async generator as before. In a process that is not traced nothing happens.
    What is not called as a function is, such as a class or a property, stays as it is, with a warning.
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

    The span is called `name`, else `process <topic>`, and has no kind: the record has its CONSUMER span
    already. A list of records is taken as a batch. An exception marks the span and goes on. In a process that
    is not traced the block runs as it is, and `span` takes everything and does nothing.
    """

    def __init__(self, record: object, name: str = "") -> None:
        self._record = record
        self._name = name
        self._call: FunctionSpan | None = None

    def __enter__(self) -> Span:
        calls = _process.calls
        if calls is not None:
            site = TracedFunction(self._name or calls.name_of(self._record))
            self._call = calls.begin(site, (self._record,), {})
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
    """Start a span under the record's, called `name`, else `process <topic>`; its `end()` reports it.

    It is not made current: for that there is OpenTelemetry's `trace.use_span(span, end_on_exit=True)`, and
    `process` above. In a process that is not traced it does nothing.
    """
    calls = _process.calls
    if calls is not None:
        return calls.next_span(record, TracedFunction(name or calls.name_of(record)))
    from opentelemetry.trace import INVALID_SPAN

    return INVALID_SPAN


def is_wrapped(function: Any) -> bool:
    """Whether the calls of this function are spans already."""
    return _MARK in getattr(getattr(function, "__func__", function), "__dict__", ())


def is_function(found: Any, in_class: bool = False) -> bool:
    """Whether a function can take the place of what was found, with nothing else to be seen than its spans.

    Other descriptors (property, cached_property, partialmethod, singledispatchmethod, a decorator's own) do
    more than to be called, and objects that can be called have a type and are pickled by what is in them.
    `in_class` is for what stands in a class's dict, where a function is given the instance first.
    """
    if isinstance(found, (staticmethod, classmethod)):
        exact = type(found).__module__ in ("builtins", "abc")
        return exact and is_function(found.__func__)
    if type(found) in (FunctionType, MethodDescriptorType, _CACHED) or type(found).__name__ == _COMPILED:
        return True
    if type(found) in _ALREADY_BOUND:
        # object.__new__ and the like, by which Python knows that a class has none of its own.
        return not (in_class and found.__name__.startswith("__"))
    return not in_class and isinstance(found, FunctionType)  # a decorator's proxy, which says that it is one


def _is_callable_object(found: Any) -> bool:
    is_descriptor = hasattr(type(found), "__get__") and not isinstance(found, functools.partial)
    return callable(found) and not isinstance(found, type) and not is_descriptor


def _warn_of(found: Any) -> None:
    from kaspan.interceptor.failures import log

    log.warning(
        "kaspan: @traced is put on a %s, which is not called as a function is; it is not traced (put @traced "
        "under the decorator that makes it, next to the function)",
        "class" if isinstance(found, type) else type(found).__name__,
    )


def in_place_of(found: Any, traced: Any) -> Any:
    """What has to stand in a class's dict, so that it is given the instance only if what was found was."""
    return staticmethod(traced) if type(found) in _ALREADY_BOUND else traced


def wrap(function: Any, site: TracedFunction) -> Any:
    """Make what replaces a function, static method or class method; itself if it is wrapped already."""
    if is_wrapped(function):
        return function
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(wrap(function.__func__, site))
    flags = _flags(function)
    if flags & _ASYNC_GENERATOR:
        made = _async_generator(function, site)
    elif flags & _COROUTINE:
        made = _coroutine(function, site)
    elif flags & _GENERATOR:
        made = _generator(function, site)
    else:
        made = _function(function, site)
    # What the object can do beside being called, such as cache_clear() of functools.lru_cache.
    for name in dir(function):
        if not name.startswith("__") and not hasattr(made, name):
            setattr(made, name, getattr(function, name))
    setattr(made, _MARK, site)
    return made


def _flags(function: Any) -> int:
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    flags: int = getattr(code, "co_flags", 0)
    return flags


def _function(function: Any, site: TracedFunction) -> Any:
    @functools.wraps(function)
    def traced_call(*args: Any, **kwargs: Any) -> Any:
        call = _begin(site, args, kwargs)
        if call is None:
            return function(*args, **kwargs)
        call.enter()
        try:
            return function(*args, **kwargs)
        except Exception as error:
            call.fail(error)
            raise
        finally:
            call.leave()
            call.end()

    return traced_call


def _coroutine(function: Any, site: TracedFunction) -> Any:
    @functools.wraps(function)
    async def traced_call(*args: Any, **kwargs: Any) -> Any:
        call = _begin(site, args, kwargs)
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


def _generator(function: Any, site: TracedFunction) -> Any:
    @functools.wraps(function)
    def traced_call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = _begin(site, args, kwargs)
        if call is None:
            return (yield from function(*args, **kwargs))
        steps = function(*args, **kwargs)
        step, argument = steps.send, None
        try:
            while True:
                # Current only while the generator runs, and not its caller.
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
                except BaseException as thrown:  # noqa: BLE001 (it is the generator's, not ours)
                    step, argument = steps.throw, thrown
        except StopIteration as end:
            return end.value
        except Exception as error:
            call.fail(error)
            raise
        finally:
            call.end()

    return traced_call


def _async_generator(function: Any, site: TracedFunction) -> Any:
    @functools.wraps(function)
    async def traced_call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = _begin(site, args, kwargs)
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
                except BaseException as thrown:  # noqa: BLE001 (it is the generator's, not ours)
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
