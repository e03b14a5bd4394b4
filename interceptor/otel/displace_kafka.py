"""Remove opentelemetry-instrumentation-kafka-python where it is active too.

Each record would have two spans, and headers of both.
"""

from __future__ import annotations

import functools
from typing import Any

from kaspan.interceptor.failures import log


def displace(module: Any) -> None:
    """Remove the patches of the module `opentelemetry.instrumentation.kafka`, and prevent new ones. One
    warning tells if there are any.
    """
    instrumentor: Any = module.KafkaInstrumentor
    if getattr(instrumentor._instrument, "__module__", None) == __name__:
        return
    instance = instrumentor()
    if instance.is_instrumented_by_opentelemetry:
        instance._uninstrument()
        _warn()
    instrumentor._instrument = _do_not_instrument


def _do_not_instrument(self: Any, **kwargs: Any) -> None:  # noqa: ARG001 (the instrumentor's own signature)
    _warn()


@functools.cache
def _warn() -> None:
    # Cached: once in a process.
    log.warning(
        "kaspan: opentelemetry-instrumentation-kafka-python is switched on too; kaspan has removed its "
        "patches, since each record would have two spans (to use it instead of kaspan, set "
        "interceptor.enabled to false)"
    )
