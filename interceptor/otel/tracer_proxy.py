"""Tracers for spans of OpenTelemetry's API while the application has set no TracerProvider.

Without a provider the API returns a proxy, which looks for the provider at each span. kaspan patches the
proxy and does not set a provider, so the application can set its own at any time and has it from then on.
The SDK is loaded at the first span: that takes longer than loading the rest of kaspan.
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
    """Makes the SDK's provider when the first tracer is needed."""

    def __init__(self, get_tracing: Callable[[], Tracing | None]) -> None:
        self._get_tracing = get_tracing
        self._provider: TracerProvider | None = None
        self._failed = False
        self._making = threading.RLock()
        # Imported here: this module is loaded with kafka, fork only with OpenTelemetry's API.
        from kaspan.interceptor import fork

        fork.after_in_child(fork.OTEL_PROVIDER, self._after_fork)

    def _after_fork(self) -> None:
        # Another thread of the parent may have held the lock.
        self._making = threading.RLock()
        if self._provider is None:
            self._failed = False

    def tracer(self, name: str, *more: Any) -> Tracer | None:
        """Return an instrumentation's tracer; None without SDK. Blocks while it is loaded; never raises."""
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
                self._failed = True  # meanwhile: the import may itself ask for a tracer
                tracing = self._get_tracing()
                if tracing is not None and not self._provide(tracing):
                    return
                self._failed = False

    def _provide(self, tracing: Tracing) -> bool:
        """Make the provider; False if the SDK is not installed, which is optional."""
        try:
            from kaspan.interceptor.otel.sdk import make_provider
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("opentelemetry"):
                raise
            log.info(
                "kaspan: spans of OpenTelemetry's API are not recorded: %s is not installed; install "
                "kaspan[opentelemetry]",
                error.name,
            )
            return False
        self._provider = make_provider(tracing)
        return True


def provide_tracers(trace: Any, get_tracing: Callable[[], Tracing | None]) -> None:
    """Patch the proxy of the API, the module `opentelemetry.trace`, to use kaspan's provider where there is
    no other. Calling it again does nothing.

    `get_tracing` is called at the first such span, and returns None while the process is not traced.
    """
    proxy: Any = trace.ProxyTracer
    original: Any = proxy.__dict__.get("_tracer")
    if not isinstance(original, property) or original.fget is None:
        error = TypeError("kaspan does not know the proxy of this version")
        record_failure("providing OpenTelemetry's tracers", error)
        return
    if hasattr(original.fget, _IS_OURS):
        return
    find, lazy = original.fget, LazyProvider(get_tracing)

    def _tracer(self: Any) -> Tracer:
        found: Tracer = find(self)
        if found is not getattr(self, "_noop_tracer", None):
            return found  # the application's provider made it
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
