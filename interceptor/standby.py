"""Between the import of kafka and the first use of it: nothing but what is needed to notice that.

Many processes import kafka with the rest of an application and never make a client. What tracing needs, from
the schema of the settings to OpenTelemetry's API, is loaded when the first one is made, or when what works
with tracing is imported.
"""

from __future__ import annotations

import atexit
import functools
import os
import stat
import sys
from collections.abc import Mapping

from kaspan.interceptor.carrying import carrying_span
from kaspan.interceptor.failures import suppress
from kaspan.interceptor.imports import imports
from kaspan.interceptor.provider import provide_tracers

TYPE_CHECKING = False  # typing's own costs the import of typing
if TYPE_CHECKING:
    from typing import Any

PEER = "opentelemetry.instrumentation.kafka"

_KAFKA_PYTHON = ("kafka.cluster", "kafka.future", "kafka.structs", "kafka.version")
"""What `import kafka` has loaded, in every version, if it is kafka-python."""
_CLIENTS = (("kafka.producer.kafka", "KafkaProducer"), ("kafka.consumer.group", "KafkaConsumer"))
_WORK_WITH_TRACING = ("kaspan.interceptor.functions", PEER)
_AT_ONCE = (
    "KASPAN_INTERCEPTOR",
    "KASPAN_INTERCEPTOR__ENABLED",
    "KASPAN_INTERCEPTOR__FUNCTIONS",
    "OTEL_SDK_DISABLED",
)
_MAX_FILE_BYTES = 1024 * 1024  # as in config.document

_stands_by = False


def stand_by(defaults: Mapping[str, str]) -> None:
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
        suppress("waiting for the first client (the application runs untraced)", error)


def _stand_by(environ: Mapping[str, str]) -> None:
    program, path = program_name(), environ.get("KASPAN_CONFIG")
    data = _read(os.path.expanduser(path)) if path else None

    def activate(*_: Any) -> Any:
        try:
            from kaspan.interceptor import activation
        except Exception as error:  # noqa: BLE001
            suppress("loading kaspan (the application runs untraced)", error)
            return None
        return activation.activate(environ, program, data)

    if (path and data is None) or any(environ.get(variable) for variable in _AT_ONCE):
        activate()
        return
    try:
        clients = [getattr(loaded(module), name) for module, name in _CLIENTS]
        fetcher = loaded("kafka.consumer.fetcher")
        # Now already, since whoever imports it has another class otherwise.
        fetcher.ConsumerRecord = carrying_span(fetcher.ConsumerRecord)
        for client in clients:
            _at_first_instance(client, activate)
    except (ImportError, AttributeError, TypeError):
        activate()
        return
    end_spans_at_exit()
    for name in _WORK_WITH_TRACING:
        imports.after(name, activate)
    imports.after("opentelemetry.trace", lambda trace: provide_tracers(trace, activate))


def loaded(module: str) -> Any:
    """Return a module of kafka-python, which is loaded with it. Imports nothing, since by that name an
    application may have code of its own. Raises ImportError where it is not loaded.
    """
    found = sys.modules.get(module)
    if found is None:
        raise ImportError(f"{module} is not loaded")
    return found


def _read(path: str) -> bytes | None:
    """The YAML file's bytes, unless something in them may have to be known at once; None where it cannot be
    read, which has to be said.
    """
    try:
        # Opening a pipe otherwise would wait for somebody to write to it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_FILE_BYTES + 1) if is_file else b""
    except (OSError, ValueError):
        return None
    if not data or len(data) > _MAX_FILE_BYTES:
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


@functools.cache
def end_spans_at_exit() -> None:
    """Have the spans of records in work and of sends that are open when the process ends reported then.

    To be called when kafka is imported: what the application registers after that still runs before it, and
    so do kafka-python's producers, which close at exit.
    """
    atexit.register(_end_open_spans)


def _end_open_spans() -> None:
    handover = sys.modules.get("kaspan.interceptor.handover")
    if handover is not None:
        handover.end_open_calls()
    consumer = sys.modules.get("kaspan.interceptor.consumer")
    if consumer is not None:
        consumer.end_open_records()
    unanswered = sys.modules.get("kaspan.interceptor.unanswered")
    if unanswered is not None:
        unanswered.end_open_sends()


def program_name() -> str:
    """The service's name when nobody gave one: the program's, without folders and .py."""
    path = (getattr(sys, "argv", None) or [""])[0]
    folder, file = os.path.split(path)
    name = os.path.basename(folder) if file == "__main__.py" else file.removesuffix(".py")
    return name if name not in ("", "-c", "-m") else "python"
