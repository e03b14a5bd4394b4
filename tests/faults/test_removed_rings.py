"""Rings that are removed under living applications, between one agent and the next."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.deployment import Deployment, python
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub

SENDS = 300
APPLICATION = f"""
import time
from support.kafka_clients import UnconnectedProducer
producer = UnconnectedProducer()
for number in range({SENDS}):
    producer.send("orders", b"value")
    producer.last.acknowledge(number)
    print(number, flush=True)
    time.sleep(0.02)
time.sleep(600)
"""


@pytest.fixture
def zipkin() -> Iterator[ZipkinStub]:
    """Give what the agent delivers to."""
    made = ZipkinStub()
    yield made
    made.close()


def test_spans_from_before_and_after_a_removal_reach_the_next_agent(
    deployment: Deployment, zipkin: ZipkinStub
) -> None:
    """The directory goes while no agent runs: all that the application has sent, and sends, is delivered."""
    tests = str(Path(__file__).parent.parent)
    application = deployment.start_traced("shop", *python("-c", APPLICATION), PYTHONPATH=tests)
    first = deployment.start_agent("--zipkin", zipkin.url)
    application.wait_for_lines(SENDS // 4)
    first.kill()
    shutil.rmtree(deployment.ring_dir)
    application.wait_for_lines(SENDS // 2)
    deployment.start_agent("--zipkin", zipkin.url)
    application.wait_for_lines(SENDS)
    application.kill()

    def delivered() -> set[str]:
        return {span["tags"]["messaging.kafka.offset"] for report in zipkin.reports for span in report.spans}

    wait_until(lambda: len(delivered()) == SENDS, "every span is delivered")
    assert "was removed while it was written" in application.stderr
