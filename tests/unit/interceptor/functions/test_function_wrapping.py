"""A traced function is to everybody who looks at it the function that it was."""

from __future__ import annotations

import asyncio
import functools
import inspect
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from kaspan.interceptor import traced
from kaspan.interceptor.functions.decorators import follow_calls
from kaspan.interceptor.functions.spans import FunctionSpans
from support.programs import ProgramRunner, outcome


def plain(order: int, *, fast: bool = False) -> str:
    """Say how."""
    return f"{order} {fast}"


async def coroutine(order: int) -> int:
    return order


def generator(order: int) -> Iterator[int]:
    yield order


async def async_generator(order: int) -> Any:
    yield order


KINDS = [plain, coroutine, generator, async_generator]


@pytest.fixture(params=[True, False], ids=["traced process", "plain process"])
def tracing(request: pytest.FixtureRequest, application: Any) -> Iterator[None]:
    """Switch the tracing of calls on, and leave it off."""
    follow_calls(FunctionSpans(application.tracing) if request.param else None)
    yield
    follow_calls(None)


@pytest.mark.parametrize("function", KINDS)
def test_traced_function_looks_like_the_function(function: Any) -> None:
    """Name, signature, documentation and kind are the function's."""
    made = traced("handle")(function)

    assert made.__wrapped__ is function
    assert (made.__name__, made.__qualname__, made.__module__, made.__doc__) == (
        (function.__name__, function.__qualname__, function.__module__, function.__doc__)
    )
    assert inspect.signature(made) == inspect.signature(function)
    for kind in (
        inspect.isfunction,
        inspect.iscoroutinefunction,
        inspect.isgeneratorfunction,
        inspect.isasyncgenfunction,
    ):
        assert kind(made) == kind(function)


@traced("picklable")
def picklable(order: int) -> int:
    return order


@pytest.mark.usefixtures("tracing")
def test_traced_function_is_pickled_by_name() -> None:
    """A process pool can be given a traced function."""
    assert pickle.loads(pickle.dumps(picklable)) is picklable  # noqa: S301 (the test's own)


@pytest.mark.usefixtures("tracing")
def test_traced_function_returns_what_it_did() -> None:
    """Arguments, results and errors are the function's, traced process or not."""
    assert traced("handle")(plain)(7, fast=True) == "7 True"
    assert asyncio.run(traced("handle")(coroutine)(7)) == 7
    assert list(traced("handle")(generator)(7)) == [7]

    async def collect() -> list[int]:
        return [one async for one in traced("handle")(async_generator)(7)]

    assert asyncio.run(collect()) == [7]
    with pytest.raises(TypeError, match=r"plain\(\) missing 1 required positional argument: 'order'"):
        traced("handle")(plain)()


class Shop:
    name = "shop"

    @traced("method")
    def method(self, order: int) -> tuple[str, int]:
        return self.name, order

    @traced("static")
    @staticmethod
    def static(order: int) -> int:
        return order

    @traced("class")
    @classmethod
    def klass(cls, order: int) -> tuple[str, int]:
        return cls.name, order

    @staticmethod
    @traced("inner")
    def inner(order: int) -> int:
        return order


@pytest.mark.usefixtures("tracing")
def test_traced_method_of_every_kind_is_called_as_before() -> None:
    """Methods, static and class methods keep what they are called on."""
    shop = Shop()

    assert shop.method(1) == Shop.method(shop, 1) == ("shop", 1)
    assert shop.static(2) == Shop.static(2) == 2
    assert shop.klass(3) == Shop.klass(3) == ("shop", 3)
    assert shop.inner(4) == 4
    assert isinstance(vars(Shop)["static"], staticmethod)
    assert isinstance(vars(Shop)["klass"], classmethod)


def test_methods_are_named_after_class_and_method(application: Any) -> None:
    """Without a name given, the span is called as the function is in its module."""

    @traced
    def local() -> None:
        pass

    follow_calls(FunctionSpans(application.tracing))
    Shop().method(1)
    Shop.klass(1)
    local()
    traced(Shop().method.__wrapped__)(Shop(), 1)  # type: ignore[attr-defined]
    follow_calls(None)

    assert [
        (span.name, span.tags["code.function.name"].partition(".")[2]) for span in application.take()
    ] == [
        ("method", f"{__name__.partition('.')[2]}.Shop.method"),
        ("class", f"{__name__.partition('.')[2]}.Shop.klass"),
        (
            "local",
            f"{__name__.partition('.')[2]}.test_methods_are_named_after_class_and_method.<locals>.local",
        ),
        ("Shop.method", f"{__name__.partition('.')[2]}.Shop.method"),
    ]


@pytest.mark.usefixtures("tracing")
def test_what_a_function_can_do_beside_being_called_is_kept() -> None:
    """A cached function still has its cache."""

    @traced("square")
    @functools.lru_cache
    def square(number: int) -> int:
        return number * number

    assert [square(3), square(3)] == [9, 9]
    assert square.cache_info().hits == 1
    square.cache_clear()
    assert square.cache_info().currsize == 0


def test_function_traced_twice_is_one_span(application: Any) -> None:
    """A function that is decorated and named in the settings as well is one span."""
    follow_calls(FunctionSpans(application.tracing))
    traced("outer")(traced("inner")(plain))(1)
    follow_calls(None)

    assert [span.name for span in application.take()] == ["inner"]


def test_partial_and_callable_objects_are_traced(application: Any) -> None:
    """What can be called can be traced, whatever it is."""

    class Handler:
        def __call__(self, order: int) -> int:
            return order

    follow_calls(FunctionSpans(application.tracing))
    assert traced("partial")(functools.partial(plain, 1, fast=True))() == "1 True"
    assert asyncio.run(traced("async partial")(functools.partial(coroutine, 1))()) == 1
    assert traced("object")(Handler())(3) == 3
    assert traced("builtin")(len)("four") == 4
    follow_calls(None)

    assert [span.name for span in application.take()] == ["partial", "async partial", "object", "builtin"]


CODE = """
import sys
import kaspan.interceptor
assert not {name.partition(".")[0] for name in sys.modules} & {"opentelemetry", "msgspec", "yaml", "kafka"}
assert "kaspan.interceptor.functions.decorators" not in sys.modules
from kaspan.interceptor import traced
@traced("handle")
def handle(order):
    return order
assert handle(7) == 7
assert not {name.partition(".")[0] for name in sys.modules} & {"opentelemetry", "msgspec", "kafka", "inspect"}
from kaspan.interceptor import process, next_span
with process(handle(7)) as span:
    span.set_attribute("a", "b")
next_span(7).end()
print("done")
"""


def test_process_that_is_not_traced_loads_nothing_for_a_decorator(programs: ProgramRunner) -> None:
    """In a plain Python the decorator imports nothing, and the others do nothing."""
    assert outcome(programs.plain(CODE)) == (0, "done\n", "")


def test_no_other_name_is_made_up() -> None:
    """kaspan.interceptor has the three names that it documents."""
    import kaspan.interceptor

    with pytest.raises(AttributeError, match="has no attribute 'trace'"):
        kaspan.interceptor.trace  # noqa: B018
