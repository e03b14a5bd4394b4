"""Decides whether the compiled part is used: here, and nowhere else.

`compiled.pyx` has what every record goes through a second time, written for C. It is missing where kaspan
was installed without a C compiler. Where somebody suspects it of an error (a crash, a wrong span),
KASPAN_PURE_PYTHON=1 in the environment switches it off, with nothing to install again. Both do the same
(test_compiled.py).

Source of the idea: YARL_NO_EXTENSIONS of yarl, WRAPT_DISABLE_EXTENSIONS of wrapt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from kaspan.interceptor.failures import watch_finalizers

PURE_PYTHON = "KASPAN_PURE_PYTHON"
_OFF = ("", "0", "false", "no", "off")

_Python = TypeVar("_Python")


def is_pure_python(environ: Mapping[str, str]) -> bool:
    """Whether an environment asks for plain Python."""
    return environ.get(PURE_PYTHON, "").lower() not in _OFF


def _load() -> Any:
    if is_pure_python(os.environ):
        return None
    try:
        return import_module("kaspan.interceptor.compiled")
    except ImportError:
        return None


compiled: Any = _load()
"""The module `kaspan.interceptor.compiled`; None where plain Python is used."""

if compiled is None:
    watch_finalizers()


def accelerated(python: _Python) -> _Python:
    """Return the compiled class or function of the same name; without the compiled part, `python` itself."""
    if compiled is None:
        return python
    found: _Python = getattr(compiled, python.__name__)  # type: ignore[attr-defined]  # classes and functions only
    return found
