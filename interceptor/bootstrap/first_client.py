"""Wait, after the import of kafka, for the first producer or consumer, and switch tracing on then.

Many processes import kafka with the rest of an application and never make a client. So only this is loaded
at `import kafka`. The rest, from the schema of the settings to OpenTelemetry's API, is loaded when the
application makes its first client, or imports a module that needs tracing.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Mapping

from kaspan.interceptor import at_exit
from kaspan.interceptor.bootstrap.kafka_python import PEER, loaded
from kaspan.interceptor.bootstrap.program import program_name
from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.import_hooks import imports
from kaspan.interceptor.kafka.record_class import with_span_attribute
from kaspan.interceptor.otel.tracer_proxy import provide_tracers

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any


_KAFKA_PYTHON = ("kafka.cluster", "kafka.future", "kafka.structs", "kafka.version")
"""Modules that `import kafka` loads in every version of kafka-python."""
_CLIENTS = (("kafka.producer.kafka", "KafkaProducer"), ("kafka.consumer.group", "KafkaConsumer"))
_NEED_TRACING = ("kaspan.interceptor.functions.decorators", PEER)
_AT_ONCE = (
    "KASPAN_INTERCEPTOR",
    "KASPAN_INTERCEPTOR__ENABLED",
    "KASPAN_INTERCEPTOR__FUNCTIONS",
    "OTEL_SDK_DISABLED",
)

_is_waiting = False


def wait_for_first_client(defaults: Mapping[str, str]) -> None:
    """Switch tracing on at the first client, with the environment variables of this moment.

    `defaults` are variables for a process that does not set them. Tracing is switched on at once in three
    cases: the settings may name functions (modules that are imported from now on are patched as they come);
    the settings may disable tracing (then nothing may be patched); or this kafka-python is unknown (a
    warning says so). Does nothing in kaspan's own commands, and where `kafka` is another package than
    kafka-python. Never raises; calling it again does nothing.
    """
    global _is_waiting  # noqa: PLW0603
    if _is_waiting or "kaspan.cli.main" in sys.modules or not all(map(sys.modules.get, _KAFKA_PYTHON)):
        return
    _is_waiting = True
    try:
        _wait({**defaults, **os.environ})
    except Exception as error:  # noqa: BLE001
        record_failure("waiting for the first client (the application runs untraced)", error)


def _wait(environ: Mapping[str, str]) -> None:
    program, path = program_name(), environ.get("KASPAN_CONFIG")
    data = _read(os.path.expanduser(path)) if path else None

    def activate(*_: Any) -> Any:
        try:
            from kaspan.interceptor.bootstrap import activation
        except Exception as error:  # noqa: BLE001
            record_failure("loading kaspan (the application runs untraced)", error)
            return None
        return activation.activate(environ, program, data)

    if (path and data is None) or any(environ.get(variable) for variable in _AT_ONCE):
        activate()
        return
    try:
        clients = [getattr(loaded(module), name) for module, name in _CLIENTS]
        fetcher = loaded("kafka.consumer.fetcher")
        # Replaced now: an application that imports the class keeps the one that it finds here.
        fetcher.ConsumerRecord = with_span_attribute(fetcher.ConsumerRecord)
        for client in clients:
            _at_first_instance(client, activate)
    except (ImportError, AttributeError, TypeError):
        activate()
        return
    at_exit.register()
    for name in _NEED_TRACING:
        imports.after(name, activate)
    imports.after("opentelemetry.trace", lambda trace: provide_tracers(trace, activate))


def _read(path: str) -> bytes | None:
    """Read the YAML file. None if it cannot be read, or may hold a setting that acts at once: in both cases
    tracing is switched on now, and a warning names an error.
    """
    from kaspan.wire import MAX_SETTINGS_BYTES  # here, since few processes name a file

    try:
        # O_NONBLOCK: opening a pipe would wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_SETTINGS_BYTES + 1) if is_file else b""
    except (OSError, ValueError):
        return None
    if not data or len(data) > MAX_SETTINGS_BYTES:
        return None
    immediate = (b"functions", b"enabled", b"\\")  # a key can be written with escapes
    return None if any(word in data for word in immediate) else data


def _at_first_instance(client: Any, activate: Any) -> None:
    client.__init__ = _FirstInit(client, activate)


class _FirstInit:
    """Replaces a class's `__init__` until the first instance is made, and calls `activate` then.

    As a descriptor it returns the original, so that it adds no frame: kafka-python counts frames to find the
    line of the application that a warning is about. Code that takes it out of the class's `__dict__`, as
    unittest.mock does, sees a function like the original.
    """

    def __init__(self, client: Any, activate: Any) -> None:
        self._client, self._original, self._activate = client, client.__init__, activate
        functools.update_wrapper(self, self._original)

        @functools.wraps(self._original)
        def function(*args: Any, **kwargs: Any) -> None:
            self._notice()
            self._original(*args, **kwargs)

        self._function = function

    @property  # type: ignore[misc]  # of object it can be set
    def __class__(self) -> Any:
        return type(self._original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self._function
        self._notice()
        return self._original.__get__(instance, owner)

    def _notice(self) -> None:
        is_on = self._activate() is not None
        if is_on and vars(self._client).get("__init__") is self:  # unless it was wrapped meanwhile
            self._client.__init__ = self._original
