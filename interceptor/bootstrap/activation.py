"""Switch tracing on: read the settings, patch kafka-python's classes, once in a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kaspan.interceptor import fork
from kaspan.interceptor.bootstrap.kafka_python import PEER, loaded
from kaspan.interceptor.bootstrap.program import program_name
from kaspan.interceptor.failures import is_from_outside, log, record_failure
from kaspan.interceptor.import_hooks import imports

if TYPE_CHECKING:
    from kaspan.interceptor.tracing.tracing import Tracing

_active = _done = False
_tracing: Tracing | None = None


def activate(
    environ: Mapping[str, str] = os.environ, program: str | None = None, data: bytes | None = None
) -> Tracing | None:
    """Patch the kafka-python that is loaded. Never raises: with a wrong configuration the application runs
    untraced, and one warning says why. Calling it again does nothing.

    `environ` holds the environment variables, `program` is the service's name where they set none, and `data`
    is the content of the YAML file if it was read before. Returns the process's tracing, or None if the
    process is not traced.
    """
    global _active, _done  # noqa: PLW0603
    if not _active:
        _active = True
        try:
            _activate(environ, program or program_name(), data)
        except BaseException as error:  # noqa: BLE001
            _active = not is_from_outside(error)  # the next client tries again
            record_failure("switching tracing on (the application runs untraced)", error)
        _done = True
    return _tracing


def _after_fork() -> None:
    # If another thread of the parent was activating, the child's next client does it: the thread is gone.
    global _active  # noqa: PLW0603
    _active = _done


fork.after_in_child(fork.ACTIVATION, _after_fork)


def _is_subinterpreter() -> bool:
    # By version, not by trying both: a search for a missing module goes through all of sys.path.
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    try:
        interpreters = import_module(name)
    except ImportError:
        return False
    current, main = interpreters.get_current(), interpreters.get_main()
    # From Python 3.13 on each is a tuple that begins with the number.
    return int(current[0] if isinstance(current, tuple) else current) != int(
        main[0] if isinstance(main, tuple) else main
    )


def _activate(environ: Mapping[str, str], program: str, data: bytes | None) -> None:
    if _is_subinterpreter():
        log.warning(
            "kaspan: this sub-interpreter is not traced: some modules that kaspan needs work in the main "
            "interpreter only; with mod_wsgi, set WSGIApplicationGroup %{GLOBAL}"
        )
        return
    from kaspan.config import ConfigError, load

    try:
        loaded = load(environ=environ, data=data, side="interceptor")
    except ConfigError as error:
        log.warning("kaspan: this process is not traced: its configuration is wrong:\n%s", error)
        return
    settings = loaded.settings
    if not settings.interceptor.enabled:
        return
    if loaded.warnings:
        ignored = "\n".join(loaded.warnings)
        log.warning("kaspan: this process is traced, but some settings are ignored:\n%s", ignored)

    from kaspan.interceptor.otel.tracer_proxy import provide_tracers
    from kaspan.interceptor.tracing.tracing import Tracing

    imports.after(PEER, _displace_peer)  # first: later, its patches would look like ours
    global _tracing  # noqa: PLW0603
    tracing = _tracing = Tracing(settings.service or program, settings.interceptor)
    _patch(tracing)
    imports.after("opentelemetry.trace", lambda trace: provide_tracers(trace, lambda: tracing))
    imports.after(
        "kaspan.interceptor.functions.decorators", lambda functions: _follow_calls(functions, tracing)
    )
    if settings.interceptor.follow_handovers:
        tracing.on_consumer = lambda record_class: _follow_records(record_class, tracing)
    if settings.interceptor.errors_from_logs:
        from kaspan.interceptor.kafka.logged_errors import follow_logs

        follow_logs(tracing)
    if settings.interceptor.functions:
        from kaspan.interceptor.functions.settings import NamedFunctions

        named = NamedFunctions(settings.interceptor.functions, imports)
        tracing.on_client = named.settle
        named.watch()


# Few applications need what the next functions import. They run when the application has imported its part.


def _displace_peer(module: Any) -> None:
    from kaspan.interceptor.otel import displace_kafka

    displace_kafka.displace(module)


def _follow_calls(functions: Any, tracing: Tracing) -> None:
    from kaspan.interceptor.functions.spans import FunctionSpans

    functions.follow_calls(FunctionSpans(tracing))


def _follow_records(record_class: type, tracing: Tracing) -> None:
    try:
        from kaspan.interceptor.handover.points import follow_records

        follow_records(tracing, record_class, imports)
    except Exception as error:  # noqa: BLE001
        record_failure("following records to other threads and tasks", error)


def _patch(tracing: Tracing) -> None:
    """Patch the classes. If one is missing or changed in this kafka-python, the others are still patched."""
    missing = []
    patches = (
        ("KafkaProducer", _patch_producer),
        ("KafkaConsumer", _patch_consumer),
        ("FutureRecordMetadata", _patch_callbacks),
        ("Sender", _patch_sender),
    )
    for what, patch in patches:
        try:
            patch(tracing)
        except (ImportError, AttributeError) as error:
            missing.append(f"{what} is not traced ({type(error).__name__}: {error})")
    if missing:
        log.warning("kaspan: kaspan does not know this kafka-python: %s", "; ".join(missing))


def _patch_producer(tracing: Tracing) -> None:
    producer_class, future_class = loaded("kafka.producer.kafka").KafkaProducer, loaded("kafka.future").Future

    from kaspan.interceptor.kafka import producer

    producer.instrument(producer_class, future_class, tracing)


def _patch_callbacks(tracing: Tracing) -> None:
    future_class = loaded("kafka.producer.future").FutureRecordMetadata

    from kaspan.interceptor.kafka.send_callbacks import follow_callbacks

    follow_callbacks(future_class, tracing)


def _patch_sender(tracing: Tracing) -> None:
    sender_class = loaded("kafka.producer.sender").Sender
    formats = loaded("kafka.record.default_records")

    from kaspan.interceptor.kafka.too_large_batch import retry_without_context

    retry_without_context(sender_class, formats, tracing)


def _patch_consumer(tracing: Tracing) -> None:
    consumer_class, fetcher = loaded("kafka.consumer.group").KafkaConsumer, loaded("kafka.consumer.fetcher")

    from kaspan.interceptor.kafka import consumer

    consumer.instrument(consumer_class, fetcher, tracing)
