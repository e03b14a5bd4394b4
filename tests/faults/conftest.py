from __future__ import annotations

from collections.abc import Iterator

import pytest

from kaspan.demo.cluster import MockCluster


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Give the address of librdkafka's mock cluster: these tests run where there is no Java."""
    cluster = MockCluster()
    yield cluster.bootstrap_servers
    cluster.close()
