"""kafka-python as the application has loaded it. Nothing here imports it."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any

PEER = "opentelemetry.instrumentation.kafka"
"""OpenTelemetry's own instrumentation of kafka-python."""


def loaded(module: str) -> Any:
    """Return a loaded module of kafka-python. Raises ImportError if it is not loaded: it is not imported,
    since an application may have a module of its own by that name.
    """
    found = sys.modules.get(module)
    if found is None:
        raise ImportError(f"{module} is not loaded")
    return found
