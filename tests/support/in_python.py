"""Modules of the interceptor as they are where nothing of it could be compiled."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any


def in_python(module: ModuleType) -> Any:
    """Load a module a second time, as where nothing could be compiled."""
    name = "kaspan.interceptor.compiled"
    kept = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        assert module.__spec__ is not None
        assert module.__spec__.origin is not None
        spec = importlib.util.spec_from_file_location(f"python_{module.__name__}", module.__spec__.origin)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    finally:
        if kept is None:
            del sys.modules[name]
        else:
            sys.modules[name] = kept
    return loaded
