"""The agent as a process: signals, the service manager, memory, and the exit code."""

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
_SUPERVISION_S = 1.0
_SHUTDOWN_STEP_S = 0.02
# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX; source: mallopt(3) and malloc.h of glibc.
_MALLOC_OPTIONS = ((-1, 32 << 20), (-3, 32 << 20), (-8, 1))

_log = logging.getLogger("kaspan.agent")


def block_signals() -> None:
    """Keep signals for `serve`, which waits for them: one that comes during the start is heeded after it.

    Must be called in the main thread, before any other thread is started.
    """
    # Waited for, not handled: a handler may run while this thread holds the very lock the handler needs.
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # Waited for all the same; one that comes in the last moments must not end the process in disorder.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of giving it back and asking again, for every batch.

    Measured: 0.7 of 4.3 microseconds CPU a span went into page faults. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS:
            mallopt(option, value)


def raise_descriptor_limit() -> None:
    """Have this process open as many files as it is allowed to; the usual 1,024 are for old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):  # in some containers the kernel allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def serve(agent: Agent, load: Callable[[], schema.Agent]) -> int:
    """Run an agent until SIGTERM or SIGINT, then end it in order; a second signal ends it at once.

    SIGHUP has it take over what `load` returns, as far as it can. Returns the process's exit code: 0, 1 when
    a part failed, 128 + the signal when it was ended at once. Must be called in the main thread, which has
    called `block_signals`.
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
    """Wait for one of `signals`; None when none came in time.

    When it is interrupted just as the time is over, CPython 3.11's sigtimedwait returns memory that nobody
    has written: a "second signal" 64 has ended an agent at once.
    """
    received = signal.sigtimedwait(signals, timeout_s)
    return received.si_signo if received is not None and received.si_signo in signals else None


def _end_at_once(code: int) -> NoReturn:
    """End without waiting for threads, one of which may hang: as after SIGKILL, nothing is lost by it."""
    _log.warning("ended at once by a second signal; undelivered spans stay in the spool and in the rings")
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _supervise(agent: Agent, load: Callable[[], schema.Agent], manager: ServiceManager) -> None:
    """Return when the agent is to stop: it is told to, or a part has failed."""
    period_s = min(_SUPERVISION_S, (manager.watchdog_s or _SUPERVISION_S) / 3)
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
    """Read the settings again and take over what can be; on any error all old ones stay in force."""
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
