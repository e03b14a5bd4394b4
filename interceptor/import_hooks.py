"""Run a function once a module is imported: now if it is, at the end of its import, or when it comes.

wrapt has such hooks too, but loading wrapt takes longer than the rest of kaspan.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

from kaspan.interceptor.failures import record_failure

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any

Task = Callable[[ModuleType], None]


class Imports:
    """Runs tasks after imports: each after every load of its module, a reload too. An exception in a task is
    logged; the import succeeds.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, list[Task]] = {}

    def after(self, name: str, task: Task) -> None:
        """Run `task(module)` once the module `name` is imported; at once if it is."""
        self._tasks.setdefault(name, []).append(task)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        module = sys.modules.get(name)
        if module is None:
            return
        if not is_loading(module):
            _run(task, module)
        elif type(module.__spec__) is ModuleSpec:
            # At the end of the import Python clears a flag of the spec. Nothing else tells.
            module.__spec__.__class__ = _LoadingSpec
            module.__spec__.__dict__["_kaspan_imports"] = self

    def loaded(self, name: str) -> None:
        """Run the tasks of a module whose import has ended. It is not in sys.modules if its import failed."""
        module = sys.modules.get(name)
        if module is not None:
            for task in self._tasks.get(name, ()):
                _run(task, module)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Find a module that has tasks, by the other finders; None for every other module."""
        if name not in self._tasks:
            return None
        for finder in list(sys.meta_path):
            find_spec: Any = None if finder is self else getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find_spec(name, path, target) if find_spec else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _NoticedLoader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


imports = Imports()
"""The only instance: each asks all other finders, so two would ask each other for ever."""


class _NoticedLoader:
    """Runs the real loader of a module, then its tasks."""

    def __init__(self, loader: Any, imports: Imports) -> None:
        self._loader = loader
        self._imports = imports

    def __getattr__(self, name: str) -> Any:
        # All except exec_module is the real loader's: resources, source, zip archives.
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module with its real loader in place, then run its tasks."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._imports.loaded(module.__name__)


class _LoadingSpec(ModuleSpec):
    """The spec of a module while it is imported; an ordinary spec again after that."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_initializing" and not value:
            imports = self.__dict__.pop("_kaspan_imports", None)
            self.__class__ = ModuleSpec  # type: ignore[assignment]
            if imports is not None:
                imports.loaded(self.name)


def is_loading(module: ModuleType) -> bool:
    """Whether a module's own code is still running for the first time."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def first_missing(name: str) -> str | None:
    """Return the part of a module's dotted name that cannot be found, such as `shop`; None if all can.

    Imports nothing, so it does not look into a package that is not imported yet.
    """
    import importlib.util

    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        if part in sys.modules:
            continue
        try:
            return part if importlib.util.find_spec(part) is None else None
        except (ImportError, ValueError):
            return part
    return None


def _run(task: Task, module: ModuleType) -> None:
    try:
        task(module)
    except Exception as error:  # noqa: BLE001
        record_failure(f"patching {module.__name__}", error)
