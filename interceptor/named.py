"""The functions that `interceptor.functions` names: each is replaced by its traced self once it is there."""

from __future__ import annotations

import difflib
import functools
import inspect
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from kaspan.config.schema import Function
from kaspan.interceptor.failures import log, suppress
from kaspan.interceptor.functions import Site, in_place_of, is_function, wrap
from kaspan.interceptor.imports import Imports, first_missing, is_loading

_MAX_NAMES = 10


class FunctionError(Exception):
    """A function cannot be traced; the message says what was found in its place."""


class _Named:
    """One entry of the setting."""

    def __init__(self, index: int, function: Function) -> None:
        self.module, _, self.path = function.call.partition(":")
        self.setting = f"interceptor.functions[{index}].call is {function.call}"
        self.site = Site(function.name or self.path, f"{self.module}.{self.path}")
        self.done = False
        """Patched, or warned about."""


class NamedFunctions:
    """Patches functions as their modules come. A function that is not there is one warning."""

    def __init__(self, functions: Sequence[Function], imports: Imports) -> None:
        self._named = [_Named(index, function) for index, function in enumerate(functions)]
        self._imports = imports

    def watch(self) -> None:
        """Patch what is there, and the others when their modules have been imported."""
        for named in self._named:
            if named.module != "__main__":
                self._imports.after(named.module, lambda module, named=named: _patch(named, module))  # type: ignore[misc]

    def settle(self) -> None:
        """Patch the program's own functions, and warn of modules that cannot be found.

        Called when the application first uses a Kafka client: by then the program has defined what it is
        made of, and has told Python where its modules are. Never raises.
        """
        for named in self._named:
            if not named.done:
                try:
                    _settle(named)
                except Exception as error:  # noqa: BLE001
                    suppress(f"looking for {named.module}", error)


def _settle(named: _Named) -> None:
    program, module = sys.modules.get("__main__"), sys.modules.get(named.module)
    if program is not None and _is_program(named.module, program):
        _patch(named, program)
    elif module is not None:
        if not is_loading(module):
            _patch(named, module)
    elif (missing := first_missing(named.module)) is not None:
        named.done = True
        log.warning("kaspan: %s, and there is no module %s here", named.setting, missing)


def _is_program(name: str, program: ModuleType) -> bool:
    """Whether a module's name is that of the program, which Python itself calls __main__.

    `shop/worker.py` is shop.worker, and worker, however it was started.
    """
    spec = getattr(program, "__spec__", None)
    if name == "__main__" or (spec is not None and name == spec.name):
        return True
    file = (getattr(program, "__file__", None) or "").removesuffix(".py")
    return f"/{file}".endswith(f"/{name.replace('.', '/')}")


def _patch(named: _Named, module: ModuleType) -> None:
    named.done = True
    try:
        replace(module, named.path, named.site)
    except FunctionError as error:
        log.warning("kaspan: %s, and %s; it is not traced", named.setting, error)


def replace(module: Any, path: str, site: Site) -> None:
    """Put a traced function in the place of the one at `path` in a module, such as `Orders.handle`.

    Raises FunctionError if there is none, or something else.
    """
    owner = module
    *outer, last = path.split(".")
    for name in outer:
        owner = _found(owner, name)
    function = _found(owner, last)
    in_class = isinstance(owner, type)
    if not is_function(function, in_class):
        raise FunctionError(f"{last} in {_described(owner)} is {_kind(function)}, {_advice(function)}")
    traced = wrap(function, site)
    if traced is function:
        return
    was_found_by_name = _is_found_by_name(function)
    try:
        setattr(owner, last, in_place_of(function, traced) if in_class else traced)
    except (AttributeError, TypeError) as error:
        raise FunctionError(f"{_described(owner)} does not let it be replaced: {error}") from error
    if owner is module:
        _replace_elsewhere(module, function, traced)
    if was_found_by_name and not _is_found_by_name(traced):
        # Another module's, or another class's: pickled under the name of that, it would not be what is there.
        traced = getattr(traced, "__func__", traced)
        traced.__module__, traced.__qualname__ = module.__name__, path


def _is_found_by_name(function: Any) -> bool:
    """Whether pickle, which keeps of a function where it is, finds this one there."""
    function = getattr(function, "__func__", function)
    found: Any = sys.modules.get(getattr(function, "__module__", None) or "")
    for name in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return getattr(found, "__func__", found) is function


def _replace_elsewhere(module: Any, function: Any, traced: Any) -> None:
    """Replace the function where its module has put it as well: other names, tables of handlers.

    Left there, it would run untraced, and could not be pickled, since its name leads to another one. The
    names of another module, such as those of Python itself, are not the module's.
    """
    for name, value in list(vars(module).items()):
        if value is function:
            setattr(module, name, traced)
        elif type(value) is dict and "__spec__" not in value:
            for key, entry in value.items():
                if entry is function:
                    value[key] = traced
        elif type(value) is list and any(entry is function for entry in value):
            value[:] = [traced if entry is function else entry for entry in value]


def _found(owner: Any, name: str) -> Any:
    """Find what stands under a name, as it stands there: a static method is not called a function."""
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
    """Say why something is refused, and what can be done where there is a function in it."""
    if isinstance(value, functools.partial):
        return f"not a function; name the one in it, {_full_name(value.func)}"
    if isinstance(value, (staticmethod, classmethod)) or (
        hasattr(type(value), "__get__") and not isinstance(value, type)
    ):
        return "which does more than to be called (put @traced under the decorator that makes it)"
    return "not a function"


def _full_name(function: Any) -> str:
    return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', '?')}"
