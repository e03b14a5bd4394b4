"""Naming something in the settings never changes what it does, whatever kind of thing it is."""

from __future__ import annotations

import builtins
import importlib
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kaspan.config.schema import Function
from kaspan.interceptor import traced
from kaspan.interceptor.functions.decorators import follow_calls
from kaspan.interceptor.functions.settings import NamedFunctions
from kaspan.interceptor.functions.spans import FunctionSpans
from kaspan.interceptor.import_hooks import Imports

GOODS = """
import abc
import functools
from contextlib import contextmanager
from json import loads as parse

size = len
TABLE = {"size": len}

def double(number, times=2):
    return number * times

triple = functools.partial(double, times=3)

@functools.singledispatch
def weigh(thing):
    return "thing"

@weigh.register
def _(thing: int):
    return "int"

@contextmanager
def opened(number):
    yield number

class Callable:
    def __call__(self, number):
        return number
    def bound(self, number):
        return number

ring_up = Callable()
bound = Callable().bound

class Own(property):
    pass

class OwnStatic(staticmethod):
    def __init__(self, function):
        super().__init__(function)
        self.seen = function.__code__

class Base(abc.ABC):
    @abc.abstractmethod
    def must(self, number): ...
    @abc.abstractclassmethod
    def must_too(cls, number): ...
    @staticmethod
    def shared(number):
        return number

class Crate(Base):
    factor = 7
    length = len
    upper = str.upper
    bound = Callable().bound
    def must(self, number):
        return self.factor * number
    @classmethod
    def must_too(cls, number):
        return cls.factor * number
    @property
    def price(self):
        return self.factor
    @Own
    def own_price(self):
        return self.factor
    @functools.cached_property
    def total(self):
        return self.factor
    @functools.lru_cache
    def cached(self, number):
        return self.factor * number
    def scale(self, number, times):
        return self.factor * number * times
    doubled = functools.partialmethod(scale, times=2)
    fixed = staticmethod(functools.partial(double, times=5))
    @functools.singledispatchmethod
    def weigh(self, thing):
        return "thing", self.factor
    @weigh.register
    def _(self, thing: int):
        return "int", self.factor
    @OwnStatic
    def seen(number):
        return number
    @staticmethod
    def plain(number):
        return number
"""


@pytest.fixture
def goods(application: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Give a way to import a module `goods` with a name in it named in the settings."""
    (tmp_path / "goods.py").write_text(GOODS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    follow_calls(FunctionSpans(application.tracing))

    def name(path: str) -> Any:
        NamedFunctions([Function(call=f"goods:{path}", name="named")], Imports()).watch()
        return importlib.import_module("goods")

    yield name
    follow_calls(None)
    sys.modules.pop("goods", None)


TRACED: dict[str, tuple[str, Callable[[Any], Any], Any]] = {
    "builtin": ("size", lambda goods: goods.size("four"), 4),
    "another module's": ("parse", lambda goods: goods.parse("7"), 7),
    "generic function": ("weigh", lambda goods: goods.weigh(7), "int"),
    "context manager": ("opened", lambda goods: goods.opened(7).__enter__(), 7),
    "bound method": ("bound", lambda goods: goods.bound(7), 7),
    "method": ("Crate.must", lambda goods: goods.Crate().must(2), 14),
    "class method": ("Crate.must_too", lambda goods: goods.Crate.must_too(2), 14),
    "static method": ("Crate.plain", lambda goods: goods.Crate().plain(2), 2),
    "inherited static method": ("Crate.shared", lambda goods: goods.Crate().shared(2), 2),
    "cached method": ("Crate.cached", lambda goods: goods.Crate().cached(2), 14),
    "builtin in a class": ("Crate.length", lambda goods: goods.Crate().length("four"), 4),
    "bound method in a class": ("Crate.bound", lambda goods: goods.Crate().bound(2), 2),
    "method of a builtin": ("Crate.upper", lambda goods: goods.Crate.upper("a"), "A"),
}


@pytest.mark.parametrize(("path", "call", "expected"), TRACED.values(), ids=TRACED.keys())
def test_function_of_every_kind_is_traced(
    application: Any, goods: Any, caplog: Any, path: str, call: Any, expected: Any
) -> None:
    """What is called as a function is gives what it gave, and is a span."""
    assert call(goods(path)) == expected
    assert [span.name for span in application.take()] == ["named"]
    assert caplog.messages == []


REFUSED: dict[str, tuple[str, Callable[[Any], Any], Any, str]] = {
    "property": ("Crate.price", lambda goods: goods.Crate().price, 7, "a property, which does more"),
    "own property": ("Crate.own_price", lambda goods: goods.Crate().own_price, 7, "a Own, which does more"),
    "cached property": (
        "Crate.total",
        lambda goods: goods.Crate().total,
        7,
        "a cached_property, which does more than being called (put @traced below the decorator",
    ),
    "partial method": ("Crate.doubled", lambda goods: goods.Crate().doubled(2), 28, "a partialmethod, which"),
    "partial": (
        "triple",
        lambda goods: (goods.triple(2), goods.triple.keywords),
        (6, {"times": 3}),
        "a partial, not a function; name the one in it, goods:double",
    ),
    "static partial": ("Crate.fixed", lambda goods: goods.Crate().fixed(2), 10, "a staticmethod, which does"),
    "generic method": (
        "Crate.weigh",
        lambda goods: (goods.Crate().weigh(7), goods.Crate().weigh("x")),
        (("int", 7), ("thing", 7)),
        "a singledispatchmethod, which does more",
    ),
    "own static method": ("Crate.seen", lambda goods: goods.Crate().seen(7), 7, "a OwnStatic, which does"),
    "callable object": ("ring_up", lambda goods: goods.ring_up(7), 7, "a Callable, not a function"),
    "class": ("Crate", lambda goods: isinstance(goods.Crate(), goods.Crate), True, "a class, not a function"),
    "object's own": (
        "Crate.__init__",
        lambda goods: isinstance(goods.Crate(), goods.Crate),
        True,
        "a wrapper_descriptor, which does more",
    ),
    "object's constructor": (
        "Crate.__new__",
        lambda goods: isinstance(goods.Crate(), goods.Crate),
        True,
        "a builtin_function_or_method",
    ),
}


@pytest.mark.parametrize(("path", "call", "expected", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_function_stays_as_it_is(
    goods: Any, caplog: Any, path: str, call: Any, expected: Any, said: str
) -> None:
    """What does more than to be called, or is more, is left alone, and one warning says so."""
    assert call(goods(path)) == expected
    (message,) = caplog.messages
    assert message.startswith(f"kaspan: interceptor.functions[0].call is goods:{path}, but ")
    assert said in message


def test_alias_of_a_builtin_is_replaced_in_its_module_only(goods: Any) -> None:
    """A name for len in a module is not len in the rest of the process."""
    module = goods("size")

    assert builtins.len is not module.size
    assert type(builtins.len).__name__ == "builtin_function_or_method"
    assert module.TABLE["size"] is module.size


@pytest.mark.parametrize("path", ["size", "parse", "Crate.shared", "Crate.plain"])
def test_named_function_is_pickled_wherever_it_comes_from(goods: Any, path: str) -> None:
    """A function of another module or class that is named under a name here can go to a pool of processes."""
    found = goods(path)
    for name in path.split("."):
        found = getattr(found, name)

    assert pickle.loads(pickle.dumps(found)) is found  # noqa: S301 (the test's own)
    assert json.loads.__module__ == "json"


def test_abstract_method_stays_abstract(goods: Any) -> None:
    """A class whose abstract method is named can be instantiated as little as before."""
    with pytest.raises(TypeError, match="abstract"):
        goods("Base.must").Base()


@pytest.mark.parametrize(
    "kind", ["cached_property", "property", "partialmethod", "singledispatchmethod", "class"]
)
def test_decorator_leaves_alone_what_is_no_function(caplog: Any, kind: str) -> None:
    """@traced above a decorator that does not make a function changes nothing, with a warning."""
    import functools

    found: Any = {
        "cached_property": functools.cached_property(lambda self: 7),
        "property": property(lambda self: 7),
        "partialmethod": functools.partialmethod(lambda self: 7),
        "singledispatchmethod": functools.singledispatchmethod(lambda self, thing: 7),
        "class": type("Crate", (), {}),
    }[kind]

    assert traced(found) is traced("named")(found) is found
    assert f"kaspan: @traced is put on a {kind}, which is not a function" in caplog.messages[0]
