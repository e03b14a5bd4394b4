from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.demo.harness.cluster import MockCluster


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """Give the address of librdkafka's mock cluster: these tests run where there is no Java."""
    cluster = MockCluster()
    yield cluster.bootstrap_servers
    cluster.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 4 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "kaspan-tests", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)
