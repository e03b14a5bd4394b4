"""The part of Cython's pure-Python mode that the two-way modules use, for when they run as Python.

Such a module runs as it is, and `compiled.pyx` includes it: there the compiler knows these names itself, and
makes classes and numbers of C of what they mark. So Cython is needed to compile kaspan, and never to run it.

Source of the idea: SQLAlchemy's `util/cython.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

compiled = False
"""True where the compiler reads it."""

# Types of C, as annotations.
bint = bool
longlong = int
ulonglong = int
Py_ssize_t = int

_Marked = TypeVar("_Marked")


def cclass(marked: type[_Marked]) -> type[_Marked]:
    """Mark a class whose instances are structs."""
    return marked


def cfunc(marked: _Marked) -> _Marked:
    """Mark a method that only compiled code calls."""
    return marked


def no_gc(marked: _Marked) -> _Marked:
    """Mark a class that a garbage collector leaves out."""
    return marked


def freelist(size: int) -> Callable[[_Marked], _Marked]:  # noqa: ARG001 (of instances)
    """Mark a class whose freed instances are used again."""
    return cfunc


def declare(kind: Any, visibility: str = "private") -> Any:
    """Declare an attribute of C; never called in Python."""
    raise NotImplementedError(kind, visibility)


p_void = object


def exceptval(value: int) -> Callable[[_Marked], _Marked]:  # noqa: ARG001 (what says that it has raised)
    """Mark a cfunc that returns a number, or raises."""
    return cfunc


def cast(kind: Any, value: Any) -> Any:  # noqa: ARG001 (nothing is checked)
    """Take a value for one of a class, which it is."""
    return value
