"""Switch tracing on: read the settings, patch kafka-python's classes, once in a process."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from kaspan.interceptor.failures import log, suppress

_active = False


def activate() -> None:
    """Patch the kafka-python that is loaded. Never raises: with a bad configuration the application runs
    untraced, and one warning says why.
    """
    global _active  # noqa: PLW0603
    if _active:
        return
    _active = True
    try:
        _activate()
    except Exception as error:  # noqa: BLE001
        suppress("switching tracing on (the application runs untraced)", error)


def _is_subinterpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        current, main = interpreters.get_current(), interpreters.get_main()
        # From Python 3.13 on each is a tuple that begins with the number.
        return int(current[0] if isinstance(current, tuple) else current) != int(
            main[0] if isinstance(main, tuple) else main
        )
    return False


def _activate() -> None:
    if _is_subinterpreter():
        log.warning(
            "kaspan: a sub-interpreter is not traced, since what kaspan needs works in main interpreters "
            "only; with mod_wsgi, set WSGIApplicationGroup %{GLOBAL}"
        )
        return
    from kaspan.config import ConfigError, load

    try:
        settings = load().settings
    except ConfigError as error:
        log.warning("kaspan: this process is not traced, because of its configuration:\n%s", error)
        return
    if not settings.interceptor.enabled:
        return

    from kafka.consumer import fetcher
    from kafka.consumer.group import KafkaConsumer
    from kafka.future import Future
    from kafka.producer.kafka import KafkaProducer

    from kaspan.interceptor import consumer, peer, producer
    from kaspan.interceptor.calls import Calls
    from kaspan.interceptor.functions import follow_calls
    from kaspan.interceptor.imports import Imports
    from kaspan.interceptor.provider import provide_tracers
    from kaspan.interceptor.tracing import Tracing

    imports = Imports()
    peer.displace(imports)  # first, since its patches would be taken for ours
    tracing = Tracing(settings.service or program_name(), settings.interceptor)
    producer.instrument(KafkaProducer, Future, tracing)
    consumer.instrument(KafkaConsumer, fetcher, tracing)
    provide_tracers(tracing)
    follow_calls(Calls(tracing))
    if settings.interceptor.functions:
        from kaspan.interceptor.named import NamedFunctions

        named = NamedFunctions(settings.interceptor.functions, imports)
        tracing.at_client = named.settle
        named.watch()


def program_name() -> str:
    """The service's name when nobody gave one: the program's, without folders and .py."""
    path = (getattr(sys, "argv", None) or [""])[0]
    folder, file = os.path.split(path)
    name = os.path.basename(folder) if file == "__main__.py" else file.removesuffix(".py")
    return name if name not in ("", "-c", "-m") else "python"
