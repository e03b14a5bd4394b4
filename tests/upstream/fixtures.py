"""The fixtures of kafka-python's unit tests, which its source distribution leaves out.

Written from how the tests use them; put beside them as conftest.py by compare.py. A fixture whose classes a
version does not have is an error of its tests, with kaspan and without.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

# Some tests draw their parameters when they are collected, and both runs must draw the same.
random.seed(0)


@pytest.fixture
def metrics() -> Iterator[Any]:
    """Collect metrics for one test."""
    from kafka.metrics import Metrics

    collected = Metrics()
    yield collected
    collected.close()


@pytest.fixture
def conn(mocker: Any) -> Any:
    """Replace the class of connections to brokers: connected, knows two brokers and no topic."""
    from kafka.conn import ConnectionStates
    from kafka.future import Future
    from kafka.protocol.metadata import MetadataResponse

    connection = mocker.patch("kafka.client_async.BrokerConnection")
    connection.return_value = connection
    connection.state = ConnectionStates.CONNECTED
    brokers = [(0, "foo", 12, None), (1, "bar", 34, None)]
    connection.send.return_value = Future().success(MetadataResponse[1](brokers, 0, []))
    connection.connection_delay.return_value = 0
    connection.blacked_out.return_value = False
    connection.next_ifr_request_timeout_ms.return_value = float("inf")
    connection.connect.side_effect = lambda: connection.state
    for state in ("connecting", "connected", "disconnected"):
        wanted = getattr(ConnectionStates, state.upper())
        getattr(connection, state).side_effect = lambda wanted=wanted: connection.state is wanted
    connection.send_pending_requests.return_value = True
    return connection


@pytest.fixture
def client(conn: Any, mocker: Any) -> Iterator[Any]:
    """Make a client on such connections."""
    from kafka.client_async import KafkaClient

    made = KafkaClient(api_version=(0, 9))
    mocker.patch.object(made, "_init_connect", return_value=True)
    yield made
    made._close()
