"""The agent's process: signals, the service manager, memory, and the exit code."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from kaspan.agent.log import write_log
from kaspan.agent.receivers.ring_directory import RingDirectoryError
from kaspan.agent.systemd import ServiceManager
from kaspan.config import ConfigError, schema

if TYPE_CHECKING:
    from kaspan.agent.agent import Agent

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
_SUPERVISION_INTERVAL_S = 1.0
_SHUTDOWN_STEP_S = 0.02
# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX; source: mallopt(3) and malloc.h of glibc.
_MALLOC_OPTIONS = ((-1, 32 << 20), (-3, 32 << 20), (-8, 1))

_log = logging.getLogger("kaspan.agent")


def block_signals() -> None:
    """Block signals until `serve` waits for them: a signal during the start is handled after it.

    Must be called in the main thread, before any other thread is started.
    """
    # Blocked, without handlers: a handler could run while this thread holds a lock that it needs.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # `serve` still receives it; a SIGHUP after that must not kill the process while it stops.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, instead of returning it to the kernel and asking again for every batch.

    Measured: 0.7 of 4.3 microseconds of CPU a span were page faults. With other C libraries it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS:
            mallopt(option, value)


def raise_descriptor_limit() -> None:
    """Raise the limit of open files to what is allowed; the usual 1,024 exist for old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # in some containers less is allowed than the hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(agent: Agent, load: Callable[[], schema.Agent]) -> int:
    """Run an agent until SIGTERM or SIGINT, then stop it in order; a second signal ends it at once.

    SIGHUP reloads the settings that `load` returns, as far as possible. Returns the exit code of the process:
    0, or 1 if a part failed. A second signal ends the process with 128 + its number. Must be called in the
    main thread, after `block_signals`.
    """
    at_once: list[int] = []

    def wait(threads: Sequence[threading.Thread], deadline_s: float) -> bool:
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline_s:
            again = _next_signal(STOP_SIGNALS, _SHUTDOWN_STEP_S)
            if again is not None:
                at_once.append(again)
                return False
        return True

    manager = ServiceManager()
    try:
        agent.start()
        manager.ready(agent.summary)
        _supervise(agent, load, manager)
        manager.stopping()
        agent.stop(wait)
        if at_once:
            _end_at_once(128 + at_once[0])
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return 1 if agent.has_failed else 0


def _next_signal(signals: Sequence[signal.Signals], timeout_s: float) -> int | None:
    """Wait for one of `signals`; None if none came in time.

    If it is interrupted just when the time is over, CPython 3.11's sigtimedwait returns uninitialized memory:
    a "second signal" 64 has ended an agent at once.
    """
    received = signal.sigtimedwait(signals, timeout_s)
    return received.si_signo if received is not None and received.si_signo in signals else None


def _end_at_once(code: int) -> NoReturn:
    """End without waiting for threads, which may hang. As after SIGKILL, no span is lost."""
    _log.warning("ended at once by a second signal; undelivered spans stay in the spool and in the rings")
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _supervise(agent: Agent, load: Callable[[], schema.Agent], manager: ServiceManager) -> None:
    """Handle signals until the agent must stop: it is told to, or a part has failed."""
    period_s = min(_SUPERVISION_INTERVAL_S, (manager.watchdog_s or _SUPERVISION_INTERVAL_S) / 3)
    while not agent.has_failed:
        received = _next_signal(_SIGNALS, period_s)
        if received in STOP_SIGNALS:
            return
        if received is not None:
            manager.reloading()
            reload(agent, load)
            manager.ready(agent.summary)
        elif manager.watchdog_s and agent.observer.stalled_s < manager.watchdog_s:
            manager.watchdog()


def reload(agent: Agent, load: Callable[[], schema.Agent]) -> None:
    """Load the settings again and use those that can change; after an error all old ones stay in force."""
    try:
        settings = load()
        agent.reload(settings)
    except ConfigError as error:
        for line in error.errors:
            _log.error("SIGHUP: %s; the old settings stay in force", line)
    except RingDirectoryError as error:
        _log.error("SIGHUP: %s; the old settings stay in force", error)
    else:
        write_log(agent.settings.log)
