"""Between the import of kafka and the first use of it: nothing but what is needed to notice that.

Many processes import kafka with the rest of an application and never make a client. What tracing needs, from
the schema of the settings to OpenTelemetry's API, is loaded when the first one is made, or when what works
with tracing is imported.
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
"""What `import kafka` has loaded, in every version, if it is kafka-python."""
_CLIENTS = (("kafka.producer.kafka", "KafkaProducer"), ("kafka.consumer.group", "KafkaConsumer"))
_WORK_WITH_TRACING = ("kaspan.interceptor.functions.decorators", PEER)
_AT_ONCE = (
    "KASPAN_INTERCEPTOR",
    "KASPAN_INTERCEPTOR__ENABLED",
    "KASPAN_INTERCEPTOR__FUNCTIONS",
    "OTEL_SDK_DISABLED",
)

_stands_by = False


def wait_for_first_client(defaults: Mapping[str, str]) -> None:
    """Have tracing switched on when it is needed, by the environment of this moment.

    `defaults` are variables for a process whose environment does not have them. At once where functions may
    be named in the settings, since those of modules that are imported from now on are replaced as they come;
    where it may be disabled, since nothing must be changed then; and where it is no kafka-python that we
    know, to say so. kaspan's own commands are not traced, nor is an application whose `kafka` is a package of
    its own. Never raises; calling it again does nothing.
    """
    global _stands_by  # noqa: PLW0603
    if _stands_by or "kaspan.cli.main" in sys.modules or not all(map(sys.modules.get, _KAFKA_PYTHON)):
        return
    _stands_by = True
    try:
        _stand_by({**defaults, **os.environ})
    except Exception as error:  # noqa: BLE001
        record_failure("waiting for the first client (the application runs untraced)", error)


def _stand_by(environ: Mapping[str, str]) -> None:
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
        # Now already, since whoever imports it has another class otherwise.
        fetcher.ConsumerRecord = with_span_attribute(fetcher.ConsumerRecord)
        for client in clients:
            _at_first_instance(client, activate)
    except (ImportError, AttributeError, TypeError):
        activate()
        return
    at_exit.register()
    for name in _WORK_WITH_TRACING:
        imports.after(name, activate)
    imports.after("opentelemetry.trace", lambda trace: provide_tracers(trace, activate))


def _read(path: str) -> bytes | None:
    """The YAML file's bytes, unless something in them may have to be known at once; None where it cannot be
    read, which has to be said.
    """
    from kaspan.wire import MAX_SETTINGS_BYTES  # here, since few processes name a file

    try:
        # Opening a pipe otherwise would wait for somebody to write to it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(MAX_SETTINGS_BYTES + 1) if is_file else b""
    except (OSError, ValueError):
        return None
    if not data or len(data) > MAX_SETTINGS_BYTES:
        return None
    telling = (b"functions", b"enabled", b"\\")  # a key can be written with escapes
    return None if any(word in data for word in telling) else data


def _at_first_instance(client: Any, activate: Any) -> None:
    client.__init__ = _FirstInit(client, activate)


class _FirstInit:
    """Stands as a class's `__init__` until it is wanted for an instance, and calls `activate` then.

    It hands out the original, so that there is no frame in between: kafka-python counts frames to say whose
    line a warning is about. To those that take it out of the class's `__dict__`, as unittest.mock does, it is
    a function like the original.
    """

    def __init__(self, client: Any, activate: Any) -> None:
        self._client, self._original, self._activate = client, client.__init__, activate
        functools.update_wrapper(self, self._original)

        @functools.wraps(self._original)
        def of_class(*args: Any, **kwargs: Any) -> None:
            self._notice()
            self._original(*args, **kwargs)

        self._of_class = of_class

    @property  # type: ignore[misc]  # of object it can be set
    def __class__(self) -> Any:
        return type(self._original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._of_class(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self._of_class
        self._notice()
        return self._original.__get__(instance, owner)

    def _notice(self) -> None:
        is_on = self._activate() is not None
        if is_on and vars(self._client).get("__init__") is self:  # unless somebody has wrapped it meanwhile
            self._client.__init__ = self._original
