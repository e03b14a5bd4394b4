"""kafka-python as the application has loaded it: nothing is imported by its name here."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any

PEER = "opentelemetry.instrumentation.kafka"
"""OpenTelemetry's own instrumentation of kafka-python."""


def loaded(module: str) -> Any:
    """Return a module of kafka-python, which is loaded with it. Imports nothing, since by that name an
    application may have code of its own. Raises ImportError where it is not loaded.
    """
    found = sys.modules.get(module)
    if found is None:
        raise ImportError(f"{module} is not loaded")
    return found
