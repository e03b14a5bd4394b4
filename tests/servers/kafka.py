"""Apache Kafka, one node that is broker and controller (KRaft)."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import kafka.errors
from kafka.admin import KafkaAdminClient, NewTopic

from servers.jars import Jars
from servers.process import ServerProcess, free_port
from support.certificates import FOLDER, SERVER

FORMAT_TIMEOUT_S = 60
SASL_USER, SASL_PASSWORD = "kaspan", "let-me-in-please"
# 16 bytes in base64. Not a random one: some begin with a dash, and the tool takes that for an option.
CLUSTER_ID = "a2FzcGFuLXRlc3RzLTAwMQ"
JAVA_OPTIONS = (
    "-XX:+UseSerialGC",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
)


class KafkaServer(ServerProcess):
    """A broker on a free port of the loopback interface; topics appear on first use.

    `bootstrap_servers` is what clients want, HOST:PORT; those with with TLS and SASL's PLAIN, as SASL_USER
    with SASL_PASSWORD: `secure_bootstrap_servers`. Data survive `kill` and `restart`.
    """

    def __init__(self, jars: Jars, directory: Path) -> None:
        super().__init__(directory)
        self._jars = jars
        self.port = free_port()
        self.bootstrap_servers = f"127.0.0.1:{self.port}"
        self.secure_bootstrap_servers = f"127.0.0.1:{free_port()}"
        self._properties_path = directory / "server.properties"
        self._properties_path.write_text(self._properties())
        self._format()

    def command(self) -> list[str]:
        return self._java("-Xmx320m", "kafka.Kafka", str(self._properties_path))

    def is_ready(self) -> bool:
        # kafka-python looks for a broker for 30 s before it gives up, and longer between attempts.
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        try:
            admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers, request_timeout_ms=5_000)
        except kafka.errors.KafkaError:
            return False
        try:
            admin.list_topics()
        except kafka.errors.KafkaError:
            return False
        finally:
            admin.close()
        return True

    def create_topics(self, *names: str, partitions: int = 1) -> None:
        """Create topics with that many partitions each, and return when the broker has done so.

        Raises:
            kafka.errors.KafkaError: the broker refused, because one exists already or for another reason.
        """
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap_servers)
        try:
            admin.create_topics([NewTopic(name, partitions, 1) for name in names])
        finally:
            admin.close()

    def _format(self) -> None:
        tool = self._java("-Xmx64m", "kafka.tools.StorageTool", "format")
        done = subprocess.run(
            [*tool, "--cluster-id", CLUSTER_ID, "--config", str(self._properties_path)],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=FORMAT_TIMEOUT_S,
        )
        if done.returncode:
            raise RuntimeError(f"Kafka's StorageTool could not format {self.directory}:\n{done.stdout}")

    def _java(self, heap: str, main_class: str, *arguments: str) -> list[str]:
        class_path = self._jars.kafka_class_path
        return [self._jars.java, heap, *JAVA_OPTIONS, "-cp", class_path, main_class, *arguments]

    def _properties(self) -> str:
        controller_port = free_port()
        secure = self.secure_bootstrap_servers
        keystore = self.directory / "keystore.pem"
        keystore.write_bytes((FOLDER / "server.key").read_bytes() + SERVER.read_bytes())
        user = f'user_{SASL_USER}="{SASL_PASSWORD}"'
        login = "org.apache.kafka.common.security.plain.PlainLoginModule"
        settings = {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
            "controller.listener.names": "CONTROLLER",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},SASL_SSL://{secure},"
            f"CONTROLLER://127.0.0.1:{controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port},SASL_SSL://{secure}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": keystore,
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{login} required {user};",
            "log.dirs": self.directory / "data",
            "auto.create.topics.enable": "true",
            "num.partitions": 1,
            # One node holds every copy there is.
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 1,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 1,
            "share.coordinator.state.topic.replication.factor": 1,
            "share.coordinator.state.topic.min.isr": 1,
            # A killed broker is taken back only when the session of its former life is over.
            "broker.heartbeat.interval.ms": 1000,
            "broker.session.timeout.ms": 4000,
            # A group of tests' consumers need not wait for members that may still come.
            "group.initial.rebalance.delay.ms": 0,
        }
        return "".join(f"{key}={value}\n" for key, value in settings.items())
