"""Wrap the functions that `interceptor.functions` names, each once its module is imported."""

from __future__ import annotations

import atexit
import contextlib
import functools
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from kaspan.config.schema import Function
from kaspan.interceptor import fork
from kaspan.interceptor.failures import log, record_failure
from kaspan.interceptor.functions.replacing import (
    FunctionError,
    Replaced,
    holders_of,
    replace,
    replace_in_others,
)
from kaspan.interceptor.functions.traced_function import TracedFunction
from kaspan.interceptor.import_hooks import Imports, first_missing, is_loading

_STARTERS = (
    "multiprocessing.popen_fork",
    "multiprocessing.popen_spawn_posix",
    "multiprocessing.popen_forkserver",
)
"""One of these is loaded if the process has started children by multiprocessing."""


class _Named:
    """One entry of the setting."""

    def __init__(self, index: int, function: Function) -> None:
        self.module, _, self.path = function.call.partition(":")
        self.setting = f"interceptor.functions[{index}].call is {function.call}"
        self.traced_function = TracedFunction(function.name or self.path, f"{self.module}.{self.path}")
        self.done = False
        """Patched, or warned about."""
        self.replaced: Replaced | None = None


class NamedFunctions:
    """Wraps the functions as their modules are imported. One warning for each that does not exist."""

    def __init__(self, functions: Sequence[Function], imports: Imports) -> None:
        self._named = [_Named(index, function) for index, function in enumerate(functions)]
        self._imports = imports
        self._is_settled = self._has_children = False

    def watch(self) -> None:
        """Wrap the functions of imported modules now, and the others when their modules are imported."""
        for named in self._named:
            if named.module != "__main__":
                self._imports.after(named.module, lambda module, named=named: _patch(named, module))  # type: ignore[misc]
        self._replace_in_others(self._named)
        self._imports.after("multiprocessing.process", self._follow_children)
        fork.after_in_parent(self._note_children)
        atexit.register(self._warn_of_uncalled)

    def _note_children(self) -> None:
        self._has_children = True

    def _warn_of_uncalled(self) -> None:
        """Warn at exit of functions that were not called, unless child processes may have called them."""
        has_children = self._has_children or any(name in sys.modules for name in _STARTERS)
        uncalled = [named for named in self._named if named.replaced and not named.traced_function.is_called]
        if uncalled and self._is_settled and not has_children:
            log.warning(
                "kaspan: these functions have no span, since they were never called by their names: %s",
                ", ".join(f"{named.module}:{named.path}" for named in uncalled),
            )

    def settle(self) -> None:
        """Wrap the functions of the program itself, and warn of modules that cannot be found.

        Called when the application first uses a Kafka client: by then the program has defined its functions
        and has set sys.path. Never raises.
        """
        waiting = [named for named in self._named if not named.done]
        for named in waiting:
            try:
                _settle(named)
            except Exception as error:  # noqa: BLE001
                record_failure(f"looking for {named.module}", error)
        self._replace_in_others(waiting)
        if not self._is_settled:
            self._is_settled = True
            for named in self._named:
                _warn_of_holders(named)

    @staticmethod
    def _replace_in_others(all_named: Sequence[_Named]) -> None:
        """Replace the functions where they were imported before they were wrapped."""
        try:
            replace_in_others([named.replaced for named in all_named if named.replaced is not None])
        except Exception as error:  # noqa: BLE001
            record_failure("replacing functions in modules that have imported them", error)

    def _follow_children(self, process: Any) -> None:
        """Wrap the program's functions in a child of multiprocessing before it begins to work."""
        plain = process.BaseProcess._bootstrap
        if hasattr(plain, "__wrapped__"):
            return

        @functools.wraps(plain)
        def _bootstrap(child: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                self._patch_program(child)
            except Exception as error:  # noqa: BLE001
                record_failure("wrapping functions in a child of multiprocessing", error)
            return plain(child, *args, **kwargs)

        process.BaseProcess._bootstrap = _bootstrap

    def _patch_program(self, child: Any) -> None:
        program = sys.modules.get("__main__")
        for named in self._named:
            if not named.done and program is not None and _is_program(named.module, program):
                with contextlib.suppress(
                    FunctionError
                ):  # a child that was forked early has not all of it yet
                    named.replaced = replace(program, named.path, named.traced_function)
                    named.done = True
            # The child's target was looked up before that.
            if named.replaced is not None and getattr(child, "_target", None) is named.replaced.plain:
                child._target = named.replaced.traced


def _warn_of_holders(named: _Named) -> None:
    try:
        holders = [] if named.replaced is None else holders_of(named.replaced)
    except Exception as error:  # noqa: BLE001
        record_failure("looking for what refers to a function", error)
        return
    if holders:
        log.warning(
            "kaspan: %s, but %s got it before kafka was imported; calls from there are not traced (put "
            "@traced of kaspan.interceptor on the function)",
            named.setting,
            " and ".join(holders),
        )


def _settle(named: _Named) -> None:
    program, module = sys.modules.get("__main__"), sys.modules.get(named.module)
    if program is not None and _is_program(named.module, program):
        _patch(named, program)
    elif module is not None:
        if not is_loading(module):
            _patch(named, module)
    elif (missing := first_missing(named.module)) is not None:
        named.done = True
        log.warning("kaspan: %s, but module %s is not found", named.setting, missing)


def _is_program(name: str, program: ModuleType) -> bool:
    """Whether a module's name is that of the program, which Python calls __main__.

    A program `shop/worker.py` is shop.worker and worker, however it was started.
    """
    spec = getattr(program, "__spec__", None)
    if name == "__main__" or (spec is not None and name == spec.name):
        return True
    file = (getattr(program, "__file__", None) or "").removesuffix(".py")
    return f"/{file}".endswith(f"/{name.replace('.', '/')}")


def _patch(named: _Named, module: ModuleType) -> None:
    named.done = True
    try:
        named.replaced = replace(module, named.path, named.traced_function)
    except FunctionError as error:
        log.warning("kaspan: %s, but %s; it is not traced", named.setting, error)
