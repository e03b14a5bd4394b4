"""The functions that `interceptor.functions` names: each is replaced by its traced self once it is there."""

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
from kaspan.interceptor.functions.site import TracedFunction
from kaspan.interceptor.import_hooks import Imports, first_missing, is_loading

_STARTERS = (
    "multiprocessing.popen_fork",
    "multiprocessing.popen_spawn_posix",
    "multiprocessing.popen_forkserver",
)
"""Loaded where children are started."""


class _Named:
    """One entry of the setting."""

    def __init__(self, index: int, function: Function) -> None:
        self.module, _, self.path = function.call.partition(":")
        self.setting = f"interceptor.functions[{index}].call is {function.call}"
        self.site = TracedFunction(function.name or self.path, f"{self.module}.{self.path}")
        self.done = False
        """Patched, or warned about."""
        self.replaced: Replaced | None = None


class NamedFunctions:
    """Patches functions as their modules come. A function that is not there is one warning."""

    def __init__(self, functions: Sequence[Function], imports: Imports) -> None:
        self._named = [_Named(index, function) for index, function in enumerate(functions)]
        self._imports = imports
        self._is_settled = self._has_children = False

    def watch(self) -> None:
        """Patch what is there, and the others when their modules have been imported."""
        for named in self._named:
            if named.module != "__main__":
                self._imports.after(named.module, lambda module, named=named: _patch(named, module))  # type: ignore[misc]
        self._replace_in_others(self._named)
        self._imports.after("multiprocessing.process", self._follow_children)
        fork.after_in_parent(self._note_children)
        atexit.register(self._tell_uncalled)

    def _note_children(self) -> None:
        self._has_children = True

    def _tell_uncalled(self) -> None:
        """Say at the end which functions were not called, unless it is for other processes to call them."""
        has_children = self._has_children or any(name in sys.modules for name in _STARTERS)
        uncalled = [named for named in self._named if named.replaced and not named.site.is_called]
        if uncalled and self._is_settled and not has_children:
            log.warning(
                "kaspan: never called in this process, or not by its name, so that it has no span: %s",
                ", ".join(f"{named.module}:{named.path}" for named in uncalled),
            )

    def settle(self) -> None:
        """Patch the program's own functions, and warn of modules that cannot be found.

        Called when the application first uses a Kafka client: by then the program has defined what it is
        made of, and has told Python where its modules are. Never raises.
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
                _tell_holders(named)

    @staticmethod
    def _replace_in_others(all_named: Sequence[_Named]) -> None:
        """Patch what was imported from a module before it was patched."""
        try:
            replace_in_others([named.replaced for named in all_named if named.replaced is not None])
        except Exception as error:  # noqa: BLE001
            record_failure("replacing functions in the modules that have imported them", error)

    def _follow_children(self, process: Any) -> None:
        """Patch the program's functions in a child of multiprocessing before it does its work."""
        plain = process.BaseProcess._bootstrap
        if hasattr(plain, "__wrapped__"):
            return

        @functools.wraps(plain)
        def _bootstrap(child: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                self._patch_program(child)
            except Exception as error:  # noqa: BLE001
                record_failure("tracing the functions of a child's program", error)
            return plain(child, *args, **kwargs)

        process.BaseProcess._bootstrap = _bootstrap

    def _patch_program(self, child: Any) -> None:
        program = sys.modules.get("__main__")
        for named in self._named:
            if not named.done and program is not None and _is_program(named.module, program):
                with contextlib.suppress(
                    FunctionError
                ):  # a child that was forked early has not all of it yet
                    named.replaced = replace(program, named.path, named.site)
                    named.done = True
            # What the child is to do was found by its name before that.
            if named.replaced is not None and getattr(child, "_target", None) is named.replaced.plain:
                child._target = named.replaced.traced


def _tell_holders(named: _Named) -> None:
    try:
        holders = [] if named.replaced is None else holders_of(named.replaced)
    except Exception as error:  # noqa: BLE001
        record_failure("looking for who has a function as it was", error)
        return
    if holders:
        log.warning(
            "kaspan: %s, and %s had got it before kafka was imported; calls from there are not traced (put "
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
        named.replaced = replace(module, named.path, named.site)
    except FunctionError as error:
        log.warning("kaspan: %s, and %s; it is not traced", named.setting, error)
