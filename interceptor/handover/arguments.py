"""Whether a record may be among some arguments. Mostly none is, and that answer is fast."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Iterable
from itertools import islice
from types import CoroutineType, FunctionType
from typing import Any

MAX_VALUES = 16
"""How many entries of an argument are looked at, if it is a list, tuple or dict."""


def may_be_given(types: set[type], function: Any, args: Any, kwargs: Any) -> bool:
    """Whether `function(*args, **kwargs)` may get an object of one of `types`."""
    if type(args) is tuple or type(args) is list:  # a Thread accepts any iterable
        for value in args:
            if is_one(types, value) and may_hold(types, value):
                return True
    if kwargs and type(kwargs) is dict:
        for value in kwargs.values():
            if is_one(types, value) and may_hold(types, value):
                return True
        return type(function) is functools.partial
    if args:
        return type(function) is functools.partial
    # Without arguments, a lambda may have it in its closure or defaults.
    is_closed = type(function) is FunctionType and function.__closure__ is function.__defaults__ is None
    return not is_closed


def is_one(types: set[type], value: Any) -> bool:
    """Whether a value is of one of `types`. Does not call the application's code: metaclasses may hash."""
    kind = type(value)
    return type(kind) is type and kind in types


def may_hold(types: set[type], value: Any) -> bool:
    """Whether a value of one of `types` is a record, or a container of an object of one of `types`."""
    kind = type(value)
    if kind is dict:
        value = value.values()
    elif kind is not list and kind is not tuple:
        return True
    return any(is_one(types, entry) for entry in islice(value, MAX_VALUES))


def refers_to(types: set[type], referring: Any) -> bool:
    """Whether an object refers to one of `types`, as a coroutine refers to its arguments."""
    # Not by a coroutine's frame: that would be made for it, which takes longer.
    found = gc.get_referents(referring) if sys.version_info >= (3, 11) else _locals(referring)
    return any(is_one(types, value) for value in found)


def _locals(coroutine: CoroutineType[Any, Any, Any]) -> Iterable[Any]:
    if coroutine.cr_frame is None:
        return ()
    variables = coroutine.cr_frame.f_locals
    found = tuple(variables.values())
    variables.clear()  # as in _arguments
    return found
