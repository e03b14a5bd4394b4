"""The Kafka of the demo: a mock inside the process, or a real one."""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import secrets
import time
from typing import Any, NamedTuple

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from kaspan.demo.harness import DemoError

CONNECT_TIMEOUT_S = 5.0
ADMIN_TIMEOUT_S = 15.0


class ClusterError(DemoError):
    """Kafka cannot be reached, or a request failed; the message says which and why."""


class Names(NamedTuple):
    """The topics and consumer groups of one run."""

    orders: str
    shipments: str
    shipping_group: str
    mailer_group: str


class MockCluster:
    """librdkafka's mock cluster: one broker inside this process, on a free port of the loopback interface.

    It keeps records in memory (about 5 MB for each partition) and makes topics when they are used. The
    constructor blocks for at most CONNECT_TIMEOUT_S, and raises ClusterError if the cluster does not start.

    Source: `test.mock.num.brokers` in librdkafka's CONFIGURATION.md.
    """

    mock = True
    names = Names("orders", "shipments", "shipping", "mailer")

    def __init__(self) -> None:
        settings = {"test.mock.num.brokers": 1, "bootstrap.servers": "unused", "log_level": 0}
        self._client = Producer(settings)
        # Never destroyed: librdkafka 2.16 sometimes deadlocks when it destroys a mock cluster.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._client))
        try:
            brokers = self._client.list_topics(timeout=CONNECT_TIMEOUT_S).brokers.values()
        except KafkaException as error:
            raise ClusterError(f"librdkafka's mock cluster did not start: {_reason(error)}") from error
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def close(self) -> None:
        """Do nothing: the broker ends with the process."""


class RealCluster:
    """New topics on the Kafka at `bootstrap_servers` (HOST:PORT); `close` deletes them.

    The demo never writes to existing topics: if `orders` or `shipments` exists, it uses other names. Its
    consumer groups always have new names, since a new member takes partitions from an existing group. The
    constructor blocks for at most CONNECT_TIMEOUT_S to connect and ADMIN_TIMEOUT_S to make the topics.
    Raises ClusterError.
    """

    mock = False

    def __init__(self, bootstrap_servers: str) -> None:
        self.bootstrap_servers = bootstrap_servers
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self.names = self._free_names()
        self._made: list[str] = []
        try:
            self._make([self.names.orders, self.names.shipments])
        except ClusterError:
            with contextlib.suppress(ClusterError):
                self.close()
            raise

    def close(self) -> None:
        """Delete the topics of this run.

        Blocks for at most ADMIN_TIMEOUT_S for each. Raises ClusterError, which names a topic that stays.
        """
        made, self._made = self._made, []
        futures = self._admin.delete_topics(made, request_timeout=ADMIN_TIMEOUT_S) if made else {}
        for topic, future in futures.items():
            self._finish("delete", topic, future)

    def _free_names(self) -> Names:
        try:
            existing = self._admin.list_topics(timeout=CONNECT_TIMEOUT_S).topics
        except KafkaException as error:
            raise ClusterError(
                f"no Kafka at {self.bootstrap_servers}: {_reason(error)}; "
                "is it running, without TLS and password?"
            ) from error
        run = f"demo-{secrets.token_hex(3)}"
        prefix = f"{run}-" if {"orders", "shipments"} & existing.keys() else ""
        return Names(f"{prefix}orders", f"{prefix}shipments", f"shipping-{run}", f"mailer-{run}")

    def _make(self, topics: list[str]) -> None:
        new = [NewTopic(topic, num_partitions=1, replication_factor=1) for topic in topics]
        for topic, future in self._admin.create_topics(new, request_timeout=ADMIN_TIMEOUT_S).items():
            self._finish("make", topic, future)
            self._made.append(topic)
        self._await_leaders(topics)

    def _await_leaders(self, topics: list[str]) -> None:
        """Wait until every topic has a leader; without one, clients retry for a second."""
        deadline = time.monotonic() + ADMIN_TIMEOUT_S
        while time.monotonic() < deadline:
            known = self._admin.list_topics(timeout=CONNECT_TIMEOUT_S).topics
            partitions = [known[topic].partitions.get(0) for topic in topics if topic in known]
            if len(partitions) == len(topics) and all(p and p.leader >= 0 for p in partitions):
                return
            time.sleep(0.1)
        raise ClusterError(f"{self.bootstrap_servers}: {topics} have no leader after {ADMIN_TIMEOUT_S:g} s")

    def _finish(self, verb: str, topic: str, future: Any) -> None:
        try:
            future.result(timeout=ADMIN_TIMEOUT_S)
        except (KafkaException, concurrent.futures.TimeoutError) as error:
            message = f"{self.bootstrap_servers}: cannot {verb} topic {topic}: {_reason(error)}"
            raise ClusterError(message) from error


def _reason(error: BaseException) -> str:
    """Return librdkafka's message, without the error's number."""
    first = error.args[0] if error.args else error
    return first.str() if hasattr(first, "str") else str(first) or type(error).__name__
