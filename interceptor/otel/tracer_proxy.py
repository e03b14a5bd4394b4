"""A tracer for everybody who asks OpenTelemetry's API for one while the application has set no provider.

Those who ask are given a proxy by the API, which looks for the real provider at each span until there is
one. There, and not in the application's place for its provider, kaspan's stands: an application that sets
its own, before or after, has it from then on. The SDK is loaded at the first span, since it costs more than
all the rest of kaspan.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from kaspan.interceptor.failures import log, record_failure

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any

    from opentelemetry.trace import Tracer, TracerProvider

    from kaspan.interceptor.tracing.tracing import Tracing

_TRACER = "_kaspan_tracer"
_IS_OURS = "_kaspan_is_ours"


class LazyProvider:
    """Makes the SDK's provider when a tracer is needed; `tracer` gives None if it cannot be had."""

    def __init__(self, get_tracing: Callable[[], Tracing | None]) -> None:
        self._get_tracing = get_tracing
        self._provider: TracerProvider | None = None
        self._failed = False
        self._making = threading.RLock()
        # Loaded here: this module is imported with kafka, that one only where OpenTelemetry's API is.
        from kaspan.interceptor import fork

        fork.after_in_child(fork.OTEL_PROVIDER, self._after_fork)

    def _after_fork(self) -> None:
        # Another thread of the parent's may have been holding it.
        self._making = threading.RLock()
        if self._provider is None:
            self._failed = False

    def tracer(self, name: str, *more: Any) -> Tracer | None:
        """Return the tracer of an instrumentation. Blocks while the SDK is being loaded; never raises."""
        try:
            if self._provider is None:
                self._make()
            return None if self._provider is None else self._provider.get_tracer(name, *more)
        except Exception as error:  # noqa: BLE001
            self._failed = True
            record_failure("providing OpenTelemetry's tracers (their spans are not recorded)", error)
            return None

    def _make(self) -> None:
        with self._making:
            if self._provider is None and not self._failed:
                self._failed = True  # until it is done, for whoever asks from within the import
                tracing = self._get_tracing()
                if tracing is not None and not self._provide(tracing):
                    return
                self._failed = False

    def _provide(self, tracing: Tracing) -> bool:
        """Make the provider; false where what it takes is not installed, which it need not be."""
        try:
            from kaspan.interceptor.otel.sdk import make_provider
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("opentelemetry"):
                raise
            log.info(
                "kaspan: spans of OpenTelemetry's API are not recorded, since %s is not installed here; "
                "that takes kaspan[opentelemetry]",
                error.name,
            )
            return False
        self._provider = make_provider(tracing)
        return True


def provide_tracers(trace: Any, get_tracing: Callable[[], Tracing | None]) -> None:
    """Let the proxies of the API, the module `opentelemetry.trace`, find kaspan's provider where there is no
    other. Doing so again does nothing.

    `get_tracing` is asked at the first such span, and gives None while the process is not traced.
    """
    proxy: Any = trace.ProxyTracer
    own: Any = proxy.__dict__.get("_tracer")
    if not isinstance(own, property) or own.fget is None:
        record_failure("providing OpenTelemetry's tracers", TypeError("this version's proxy is not known"))
        return
    if hasattr(own.fget, _IS_OURS):
        return
    find, lazy = own.fget, LazyProvider(get_tracing)

    def _tracer(self: Any) -> Tracer:
        found: Tracer = find(self)
        if found is not getattr(self, "_noop_tracer", None):
            return found  # of the application's provider
        made: Tracer | None = self.__dict__.get(_TRACER)
        if made is None:
            made = self.__dict__[_TRACER] = lazy.tracer(
                self._instrumenting_module_name,
                self._instrumenting_library_version,
                self._schema_url,
                *((self._attributes,) if hasattr(self, "_attributes") else ()),
            )
        return found if made is None else made

    setattr(_tracer, _IS_OURS, True)
    proxy._tracer = property(_tracer)
