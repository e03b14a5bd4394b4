"""The agent: makes all parts from the settings, runs each in a thread, and stops them in order."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from kaspan.agent.http.errors import ListenError
from kaspan.agent.monitoring.observer import Observer
from kaspan.agent.processors.build import build as build_processors
from kaspan.agent.processors.chain import Chain, Tally
from kaspan.agent.receivers.ring_directory import RingDirectory, RingDirectoryError
from kaspan.agent.receivers.ring_receiver import Adjustment, RingReceiver
from kaspan.agent.reload import changes
from kaspan.agent.senders.build import build as build_senders
from kaspan.agent.senders.build import open_store
from kaspan.agent.senders.delivery import Delivery
from kaspan.agent.spool.control_socket import ControlSocket
from kaspan.agent.spool.expiry import Expiry
from kaspan.agent.spool.spool import Spool
from kaspan.config import schema
from kaspan.store.lock import StoreError

if TYPE_CHECKING:
    from kaspan.agent.receivers.collector import Collector
    from kaspan.agent.senders.store import StoreSender
    from kaspan.agent.web.store_queries import StoreQueries

_MAX_LINGER_S = 0.2

_log = logging.getLogger("kaspan.agent")


class _Worker(threading.Thread):
    """A thread that logs its failure.

    It is a daemon thread: a target that hangs must not keep the process alive.
    """

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        super().__init__(name=name, daemon=True)
        self._work = work
        self.has_failed = False

    def run(self) -> None:
        try:
            self._work()
        except (Exception, SystemExit) as error:  # noqa: BLE001 (logged, and the agent stops)
            # SystemExit: rich raises it when the pipe that it prints to is closed.
            self.has_failed = True
            _log.error(
                "%s failed: %s",
                self.name,
                error or type(error).__name__,
                exc_info=not isinstance(error, SystemExit),
            )


class Agent:
    """All parts of one agent.

    `collector` is None if agent.listen and agent.socket are empty. `settings` are the settings in force.
    Raises StoreError, SpoolError, RingDirectoryError, ListenError or ConfigError if the agent cannot work
    with them.
    """

    def __init__(self, settings: schema.Agent) -> None:
        self.settings = settings
        self._chain = _chain(settings)
        self._former_chains: list[Chain] = []
        senders = build_senders(settings.senders, settings.batch, os.environ, settings.listen)
        self._store_sender = open_store(settings.store) if settings.store is not None else None
        if self._store_sender is not None:
            senders.append(self._store_sender)
        self._directories = _open_directories(
            settings.ring_dirs, {}, is_listening=bool(settings.listen or settings.socket)
        )
        self.spool = Spool(settings.spool.path, settings.spool.max_bytes)
        self.spool.register(sender.name for sender in senders)
        self._receiver = RingReceiver(
            list(self._directories.values()),
            self.spool,
            settings.batch.max_bytes,
            settings.batch.flush_interval_s,
            chain=self._chain,
        )
        linger_s = _linger_s(settings.batch)
        self._deliveries = [
            Delivery(self.spool, sender, settings.batch.max_bytes, linger_s=linger_s) for sender in senders
        ]
        self.collector = make_collector(settings, self.spool, self._chain)
        self._receiving = [_Worker("ring receiver", self._receiver.run)]
        if self.collector is not None:
            self._receiving.append(_Worker("http receiver", self.collector.server.run))
        self._sending = [_Worker(delivery.sender.name, delivery.run) for delivery in self._deliveries]
        self._expiry = Expiry(self.spool)
        self._expiring = _Worker("expiry", lambda: self._expiry.run(lambda: self.settings.spool.max_age_s))
        workers = (*self._receiving, *self._sending, self._expiring)
        self.observer = Observer(
            self.spool,
            self._receiver,
            self.collector,
            self._deliveries,
            workers,
            self._tally,
            self._store_sender,
        )
        self._queries: StoreQueries | None = None
        self._counting: list[_Worker] = []
        if self.collector is not None:
            add_monitoring_routes(self.collector, self.observer)
            if self._store_sender is not None:
                self._queries = make_queries(self._store_sender, settings, self.collector)
                self._counting.append(_Worker("link counter", self._queries.run))
        self._control = ControlSocket(self.spool)
        self._controlling = _Worker("control", self._control.run)

    def _tally(self) -> Tally:
        """Return what processors have done, those from before a reload included."""
        total = Tally()
        for chain in (*self._former_chains, self._chain):
            if chain is not None:
                total.add(chain.total)
        return total

    def start(self) -> None:
        """Start all threads, and log the summary."""
        for worker in (*self._sending, *self._receiving, self._expiring, self._controlling, *self._counting):
            worker.start()
        _log.info("%s", self.summary)

    @property
    def summary(self) -> str:
        """What the agent does, in one line."""
        rings = f"rings in {', '.join(self.settings.ring_dirs)}" if self.settings.ring_dirs else "no rings"
        listens = ", ".join(self.collector.server.names) if self.collector else "nothing"
        senders = ", ".join(delivery.sender.name for delivery in self._deliveries)
        return (
            f"reads {rings}; listens on {listens}; spool "
            f"{self.spool.path} ({self.spool.totals.spans} spans in it); sends to {senders}"
        )

    def reload(self, settings: schema.Agent) -> None:
        """Use those new settings that can change while the agent works, and log which need a restart.

        Raises ConfigError or RingDirectoryError, and then nothing has changed.
        """
        found = changes(self.settings, settings)
        new = found.in_force
        chain = _chain(new) if "agent.processors" in found.applied else self._chain
        self._directories = _open_directories(
            new.ring_dirs, self._directories, is_listening=self.collector is not None
        )
        if chain is not self._chain and self._chain is not None:
            self._former_chains.append(self._chain)
        self.settings, self._chain = new, chain
        self._adjust(new.batch)
        if self.collector is not None:
            self.collector.adjust(new, chain)
            self._renew_certificate(self.collector)
        if found.applied:
            _log.info("SIGHUP: now in force: %s", ", ".join(found.applied), extra={"applied": found.applied})
        if found.pending:
            keys = ", ".join(found.pending)
            _log.warning("SIGHUP: needs a restart of the agent: %s", keys, extra={"pending": found.pending})
        if not found.applied and not found.pending:
            _log.info("SIGHUP: no setting has changed")

    def _adjust(self, batch: schema.Batch) -> None:
        self.spool.max_bytes = self.settings.spool.max_bytes
        if self._store_sender is not None and self.settings.store is not None:
            self._store_sender.adjust(self.settings.store.max_bytes, self.settings.store.max_age_s)
        directories = list(self._directories.values())
        self._receiver.adjust(Adjustment(directories, batch.max_bytes, batch.flush_interval_s, self._chain))
        for delivery in self._deliveries:
            delivery.adjust(batch.max_bytes, _linger_s(batch))

    def _renew_certificate(self, collector: Collector) -> None:
        """Read the certificate again, also if no setting changed: certificates are renewed in place."""
        try:
            collector.server.renew_certificate(self.settings.tls)
        except ListenError as error:
            _log.error("SIGHUP: %s; the old certificate stays in use", error)

    @property
    def has_failed(self) -> bool:
        """Whether a part has failed."""
        return any(worker.has_failed for worker in (*self._receiving, *self._sending, self._expiring))

    def stop(self, wait: Callable[[Sequence[threading.Thread], float], bool]) -> None:
        """Store what rings hold and clients send, deliver for up to shutdown_timeout_s, and log the result.

        `wait` waits for threads until a time of the monotonic clock, in seconds; False means end at once.
        """
        deadline_s = time.monotonic() + self.settings.shutdown_timeout_s
        self.observer.is_stopping = True
        self._control.stop()
        self._expiry.stop()
        self._receiver.stop()
        if self._queries is not None:
            self._queries.stop()
        if self.collector is not None:
            self.collector.server.stop()
        if not wait((*self._receiving, *self._counting), deadline_s):
            return
        for delivery in self._deliveries:
            delivery.drain()
        if not wait(self._sending, deadline_s):
            return
        sent = ", ".join(
            f"{delivery.stats.sent_spans} to {delivery.sender.name}" for delivery in self._deliveries
        )
        by_http = self.collector.accepted_spans if self.collector else 0
        _log.info(
            "stopped: %d spans accepted, sent %s, %d left in the spool",
            self._receiver.accepted_spans + by_http,
            sent,
            self.spool.totals.spans,
        )
        if not any(worker.is_alive() for worker in (*self._receiving, *self._sending, self._expiring)):
            self._close()

    def _close(self) -> None:
        """Release spool and store for another agent."""
        self.spool.close()
        if self._queries is not None:
            self._queries.close()
        if self._store_sender is not None:
            with suppress(StoreError):  # its sender has said why; what is not committed is in the spool
                self._store_sender.store.close()


def make_collector(settings: schema.Agent, spool: Spool, chain: Chain | None) -> Collector | None:
    """Open agent.listen and agent.socket; if both are empty, return None and do not load the HTTP server."""
    if not settings.listen and not settings.socket:
        return None
    from kaspan.agent.receivers.collector import Collector

    return Collector(settings, spool, chain)


def add_monitoring_routes(collector: Collector, observer: Observer) -> None:
    """Add the routes about the agent itself to the HTTP server."""
    from kaspan.agent.monitoring.routes import MonitoringRoutes

    MonitoringRoutes(observer).add_to(collector.server)


def make_queries(sender: StoreSender, settings: schema.Agent, collector: Collector) -> StoreQueries:
    """Open the store of a sender for reading, and answer Zipkin's queries. Raises ConfigError."""
    from kaspan.agent.web.store_queries import StoreQueries

    queries = StoreQueries(sender.settings, settings)
    queries.add_to(collector.server)
    return queries


def _chain(settings: schema.Agent) -> Chain | None:
    return build_processors(settings.processors, os.environ) if settings.processors else None


def _open_directories(
    paths: Sequence[str], open_already: Mapping[str, RingDirectory], is_listening: bool = False
) -> dict[str, RingDirectory]:
    """Open ring directories; those that are open stay. Raises RingDirectoryError, and then opens none.

    A directory that another user has created does not stop the others: the receiver logs it, and tries again
    and again. It is an error only if the agent would have nothing else to read.
    """
    directories = {path: open_already.get(path) or RingDirectory(path) for path in paths}
    new = [directory for path, directory in directories.items() if path not in open_already]
    refused: list[RingDirectoryError] = []
    try:
        for directory in new:
            try:
                directory.open()
            except RingDirectoryError as error:
                refused.append(error)
                # The default directory on disk is rarely needed.
                if not error.is_of_another_user and directory.path != schema.default_fallback_dir():
                    raise
        if refused and len(refused) == len(directories) and not is_listening:
            raise refused[0]
    except RingDirectoryError:
        for directory in new:
            directory.close()
        raise
    return directories


def _linger_s(batch: schema.Batch) -> float:
    return min(_MAX_LINGER_S, batch.flush_interval_s / 5)
