"""Replace a function by its traced wrapper, in its module and wherever it was imported or stored."""

from __future__ import annotations

import difflib
import functools
import gc
import inspect
import sys
from collections.abc import Iterable
from types import CellType, FrameType, FunctionType, ModuleType
from typing import Any

from kaspan.interceptor.functions.decorators import as_attribute, is_function, wrap
from kaspan.interceptor.functions.traced_function import TracedFunction

_MAX_NAMES = 10


class FunctionError(Exception):
    """A function cannot be traced. The message says what was found under its name."""


class Replaced:
    """A function, and the wrapper that has replaced it."""

    def __init__(self, plain: Any, traced: Any, is_own: bool = False) -> None:
        self.plain = plain
        self.traced = traced
        self.is_own = is_own
        """Whether the function is defined in the module that the setting names, not imported there."""


def replace(module: Any, path: str, traced_function: TracedFunction) -> Replaced | None:
    """Replace the function at `path` in a module, such as `Orders.handle`, by its traced wrapper.

    Returns None if it is traced already. Raises FunctionError if the path leads to no function.
    """
    owner = module
    *outer, last = path.split(".")
    for name in outer:
        owner = _found(owner, name)
    function = _found(owner, last)
    in_class = isinstance(owner, type)
    if not is_function(function, in_class):
        raise FunctionError(f"{last} in {_described(owner)} is {_kind(function)}, {_advice(function)}")
    traced = wrap(function, traced_function)
    if traced is function:
        return None
    was_found_by_name = _is_found_by_name(function)
    try:
        setattr(owner, last, as_attribute(function, traced) if in_class else traced)
    except (AttributeError, TypeError) as error:
        raise FunctionError(f"{_described(owner)} does not let it be replaced: {error}") from error
    replaced = Replaced(function, traced, getattr(function, "__module__", None) == module.__name__)
    if owner is module:
        _replace_in(vars(module), [replaced])
        # In a spawned child of multiprocessing, the program's functions have another module's globals.
        its_own = getattr(function, "__globals__", {})
        if its_own.get("__name__") == module.__name__:
            _replace_in(its_own, [replaced])
    if was_found_by_name and not _is_found_by_name(traced):
        # From another module or class: pickle would look it up there, and find another function.
        traced = getattr(traced, "__func__", traced)
        traced.__module__, traced.__qualname__ = module.__name__, path
    return replaced


def _is_found_by_name(function: Any) -> bool:
    """Whether pickle, which stores a function as module and name, finds this one."""
    function = getattr(function, "__func__", function)
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return getattr(found, "__func__", found) is function


def replace_in_others(all_replaced: Iterable[Replaced]) -> None:
    """Replace functions in all modules that have imported them or stored them in a list or dict.

    Only functions that their named module defines: an imported one, such as Python's own, stays in others.
    """
    own = [one for one in all_replaced if one.is_own]
    for name, module in list(sys.modules.items()):
        if own and isinstance(module, ModuleType) and name.partition(".")[0] not in sys.stdlib_module_names:
            # Not vars(module): that would load a lazy module.
            _replace_in(object.__getattribute__(module, "__dict__"), own)


def _replace_in(names: dict[str, Any], all_replaced: Iterable[Replaced]) -> None:
    """Replace functions under other names of a module, and in its lists and dicts.

    There the original would run untraced, and could not be pickled, since its name leads to the wrapper. A
    dict that is the namespace of another module stays as it is.
    """
    by_id = {id(one.plain): one.traced for one in all_replaced}
    for name, value in list(names.items()):
        if id(value) in by_id:
            names[name] = by_id[id(value)]
        elif type(value) is dict and "__spec__" not in value:
            for key, entry in list(value.items()):
                if id(entry) in by_id:
                    value[key] = by_id[id(entry)]
        elif type(value) is list and any(id(entry) in by_id for entry in value):
            value[:] = [by_id.get(id(entry), entry) for entry in value]


def holders_of(replaced: Replaced) -> list[str]:
    """Describe what still refers to the original function, such as `a list`. Searches all objects if there
    is something.
    """
    if type(replaced.plain) is not FunctionType:
        return []
    if _references(replaced) <= _references(_unreferenced()):
        return []
    ours = {
        id(replaced),
        id(vars(replaced)),
        id(vars(replaced.traced)),
        *map(id, replaced.traced.__closure__),
    }
    found = [one for one in gc.get_referrers(replaced.plain) if id(one) not in ours]
    found = [one for one in found if not isinstance(one, FrameType)]
    return sorted({"a lambda or another function" if type(one) is CellType else _kind(one) for one in found})


def _unreferenced() -> Replaced:
    def function() -> None: ...

    return Replaced(function, wrap(function, TracedFunction("")))


def _references(replaced: Replaced) -> int:
    return sys.getrefcount(replaced.plain)


def _found(owner: Any, name: str) -> Any:
    """Return the attribute of a module or class, without the effect of descriptors in a class."""
    try:
        if isinstance(owner, type):
            return inspect.getattr_static(owner, name)
        return getattr(owner, name)
    except AttributeError:
        pass
    names = [one for one in dir(owner) if not one.startswith("__")]
    close = difflib.get_close_matches(name, names, 1)
    if close:
        raise FunctionError(f"{_described(owner)} has no {name}; did you mean {close[0]}?") from None
    callables = [one for one in names if callable(getattr(owner, one, None))]
    listed = ", ".join(callables[:_MAX_NAMES]) + (", ..." if len(callables) > _MAX_NAMES else "")
    raise FunctionError(f"{_described(owner)} has no {name}; it has {listed or 'no function'}") from None


def _described(owner: Any) -> str:
    if isinstance(owner, ModuleType):
        file = getattr(owner, "__file__", None)
        return f"module {owner.__name__} ({file})" if file else f"module {owner.__name__}"
    return f"class {owner.__qualname__}" if isinstance(owner, type) else _kind(owner)


def _kind(value: Any) -> str:
    return "a class" if isinstance(value, type) else f"a {type(value).__name__}"


def _advice(value: Any) -> str:
    """Say why an object is refused, and what to do if it contains a function."""
    if isinstance(value, functools.partial):
        return f"not a function; name the one in it, {_full_name(value.func)}"
    if isinstance(value, (staticmethod, classmethod)) or (
        hasattr(type(value), "__get__") and not isinstance(value, type)
    ):
        return "which does more than being called (put @traced below the decorator that makes it)"
    return "not a function"


def _full_name(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', '?')}"
