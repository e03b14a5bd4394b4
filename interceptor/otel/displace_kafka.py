"""opentelemetry-instrumentation-kafka-python, active in the same process: kaspan takes its place.

Both would make a span of each record, and both would write headers.
"""

from __future__ import annotations

import functools
from typing import Any

from kaspan.interceptor.failures import log


def displace(module: Any) -> None:
    """Take away the patches of the peer, the module `opentelemetry.instrumentation.kafka`, and let it make
    none from now on; with one warning if it would have.
    """
    instrumentor: Any = module.KafkaInstrumentor
    if getattr(instrumentor._instrument, "__module__", None) == __name__:
        return
    instance = instrumentor()
    if instance.is_instrumented_by_opentelemetry:
        instance._uninstrument()
        _warn()
    instrumentor._instrument = _leave_it_to_kaspan


def _leave_it_to_kaspan(self: Any, **kwargs: Any) -> None:  # noqa: ARG001 (the instrumentor's own signature)
    _warn()


@functools.cache
def _warn() -> None:
    # Once in a process, however often the peer is switched on.
    log.warning(
        "kaspan: opentelemetry-instrumentation-kafka-python is switched on too; kaspan traces kafka-python "
        "in its place, so that no record has two spans (to have that one instead, set interceptor.enabled to "
        "false)"
    )
