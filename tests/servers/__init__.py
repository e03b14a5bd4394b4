"""Real Kafka and real Zipkin for the tests, fetched by Maven and started on free loopback ports."""

from servers.jars import Jars, ServersMissingError, fetch_jars
from servers.kafka import KafkaServer
from servers.running import Servers
from servers.zipkin import ZipkinServer

__all__ = ["Jars", "KafkaServer", "Servers", "ServersMissingError", "ZipkinServer", "fetch_jars"]
