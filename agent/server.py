"""The agent as a process: builds the parts from the settings, runs each in a thread, ends them in order."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from kaspan.agent.processors.build import build as build_processors
from kaspan.agent.processors.chain import Chain
from kaspan.agent.receivers.directory import RingDirectory
from kaspan.agent.receivers.ring import RingReceiver
from kaspan.agent.senders.build import build as build_senders
from kaspan.agent.senders.delivery import Delivery
from kaspan.agent.spool import Spool
from kaspan.config import schema

if TYPE_CHECKING:
    from kaspan.agent.receivers.collector import Collector

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SUPERVISION_S = 1.0
_SHUTDOWN_STEP_S = 0.02
_MAX_LINGER_S = 0.2
# M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX; source: mallopt(3) and malloc.h of glibc.
_MALLOC_OPTIONS = ((-1, 32 << 20), (-3, 32 << 20), (-8, 1))

_log = logging.getLogger("kaspan.agent")


class _Worker(threading.Thread):
    """A thread that says how it failed, if it did.

    A daemon: a target that hangs must not keep the process.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.has_failed = False

    def run(self) -> None:
        try:
            self._work()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (said here, and ends the agent)
            # SystemExit: so rich ends a thread whose pipe is closed.
            self.has_failed = True
            _log.error(
                "%s failed: %s",
                self.name,
                error or type(error).__name__,
                exc_info=not isinstance(error, SystemExit),
            )


class Agent:
    """All parts of one agent.

    `collector` is None where agent.listen and agent.socket are empty; until `start`, routes may be added to
    its server. `chain` is None where agent.processors is empty. Raises SpoolError, RingDirectoryError,
    ListenError and ConfigError when the agent cannot work with these settings.
    """

    def __init__(self, settings: schema.Agent) -> None:
        self._settings = settings
        batch = settings.batch
        self.chain = build_processors(settings.processors, os.environ) if settings.processors else None
        senders = build_senders(settings.senders, batch, os.environ)
        directories = [RingDirectory(path) for path in dict.fromkeys(settings.ring_dirs)]
        for directory in directories:
            directory.open()
        self.spool = Spool(settings.spool.path, settings.spool.max_bytes)
        self.spool.register(sender.name for sender in senders)
        self._receiver = RingReceiver(
            directories, self.spool, batch.max_bytes, batch.flush_interval_s, chain=self.chain
        )
        linger_s = min(_MAX_LINGER_S, batch.flush_interval_s / 5)
        self._deliveries = [
            Delivery(self.spool, sender, batch.max_bytes, linger_s=linger_s) for sender in senders
        ]
        self.collector = make_collector(settings, self.spool, self.chain)
        self._receiving = [_Worker("ring receiver", self._receiver.run)]
        if self.collector is not None:
            self._receiving.append(_Worker("http receiver", self.collector.server.run))
        self._sending = [_Worker(delivery.sender.name, delivery.run) for delivery in self._deliveries]

    def start(self) -> None:
        """Start all threads and say what the agent does."""
        for worker in (*self._sending, *self._receiving):
            worker.start()
        _log.info(
            "reads rings in %s; listens on %s; spool %s (%d spans in it); sends to %s",
            ", ".join(self._settings.ring_dirs),
            ", ".join(self.collector.server.names) if self.collector else "nothing",
            self.spool.path,
            self.spool.spans,
            ", ".join(delivery.sender.name for delivery in self._deliveries),
        )

    @property
    def has_failed(self) -> bool:
        """Whether a part has ended that should not have."""
        return any(worker.has_failed for worker in (*self._receiving, *self._sending))

    def stop(self, wait: Callable[[Sequence[threading.Thread], float], bool]) -> None:
        """Take what rings hold and clients are sending, deliver what shutdown_timeout_s allows, and report.

        `wait` waits for threads up to a time of the monotonic clock in seconds; False means stop at once.
        """
        deadline_s = time.monotonic() + self._settings.shutdown_timeout_s
        self._receiver.stop()
        if self.collector is not None:
            self.collector.server.stop()
        if not wait(self._receiving, deadline_s):
            return
        for delivery in self._deliveries:
            delivery.drain()
        if not wait(self._sending, deadline_s):
            return
        sent = ", ".join(
            f"{delivery.account.sent_spans} to {delivery.sender.name}" for delivery in self._deliveries
        )
        by_http = self.collector.taken_spans if self.collector else 0
        _log.info(
            "stopped: %d spans taken, sent %s, %d left in the spool",
            self._receiver.taken_spans + by_http,
            sent,
            self.spool.spans,
        )
        if not any(worker.is_alive() for worker in (*self._receiving, *self._sending)):
            self.spool.close()


def make_collector(settings: schema.Agent, spool: Spool, chain: Chain | None) -> Collector | None:
    """Open what agent.listen and agent.socket name; nothing of HTTP is loaded when both are empty."""
    if not settings.listen and not settings.socket:
        return None
    from kaspan.agent.receivers.collector import Collector

    return Collector(settings, spool, chain)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of giving it back and asking again, for every batch.

    Measured: 0.7 of 4.3 microseconds CPU a span went into page faults. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS:
            mallopt(option, value)


def serve(agent: Agent) -> int:
    """Run an agent until SIGTERM or SIGINT, then end it in order; a second signal ends it at once.

    Returns the process's exit code: 0, 1 when a part failed, 128 + the signal when it was ended at once.
    Must be called in the main thread.
    """
    # Waited for, not handled: a handler may run while this thread holds the very lock the handler needs.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    at_once: list[int] = []

    def wait(threads: Sequence[threading.Thread], deadline_s: float) -> bool:
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline_s:
            again = signal.sigtimedwait(STOP_SIGNALS, _SHUTDOWN_STEP_S)
            if again is not None:
                at_once.append(again.si_signo)
                return False
        return True

    try:
        agent.start()
        while not agent.has_failed and signal.sigtimedwait(STOP_SIGNALS, _SUPERVISION_S) is None:
            pass
        agent.stop(wait)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if at_once:
        _log.warning("ended at once by a second signal; undelivered spans stay in the spool and in the rings")
        return 128 + at_once[0]
    return 1 if agent.has_failed else 0


class _Formatter(logging.Formatter):
    """One line for a message: time in UTC, level, text."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")


def log_to_stderr() -> None:
    """Write the agent's log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter())
    _log.addHandler(handler)
    _log.setLevel(logging.INFO)
    _log.propagate = False
