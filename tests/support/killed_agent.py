"""An agent that is killed while spans are promised to arrive, and what must hold at the end.

KASPAN_TEST_KILLS asks for more kills than a usual run has.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from support.deployment import KASPAN, Deployment
from support.load import MakeSpan
from support.process import RunningProcess
from support.waiting import wait_until

KILLS = int(os.environ.get("KASPAN_TEST_KILLS", "15"))
ARRIVAL_S = 120.0
SENDER_TIMEOUT_S = 0.5


class KilledAgent:
    """An agent that is killed and started again where it was, over and over.

    `command` are the words of the command line behind `kaspan`.
    """

    def __init__(
        self,
        deployment: Deployment,
        sender: dict[str, Any] | None,
        command: Sequence[str] = ("agent",),
        **variables: str,
    ) -> None:
        self._command = command
        self.socket = str(deployment.directory / "agent.sock")
        self.spool_path = Path(variables.get("KASPAN_AGENT__SPOOL__PATH", deployment.spool_path))
        self._deployment = deployment
        self._variables = {
            "KASPAN_AGENT__SOCKET": self.socket,
            "KASPAN_AGENT__SENDERS": json.dumps([sender] if sender else []),
            "KASPAN_AGENT__BATCH__FLUSH_INTERVAL_S": "0.05",
            **variables,
        }
        deployment.ring_dir.mkdir(mode=0o700, exist_ok=True)
        self.start()

    def start(self, **variables: str) -> None:
        """Start it again, with these variables from now on."""
        self._variables |= variables
        self.running: RunningProcess = self._deployment.start(
            "agent", KASPAN, *self._command, **self._variables
        )

    def is_up(self) -> bool:
        assert self.running.process.poll() is None, self.running.stderr
        return "listens on" in self.running.stderr

    def kill(self, rng: random.Random, latest_s: float = 0.5) -> None:
        """Kill it at some moment, one time in four before it is up, and start it again.

        When it is up, the moment is at most `latest_s` later.
        """
        if rng.random() > 0.25:
            wait_until(self.is_up, "the agent's start", every_s=0.01)
        # Not a wait for something: the moment of the kill is what is random.
        threading.Event().wait(rng.uniform(0.0, latest_s))
        assert self.running.process.poll() is None, self.running.stderr
        self.running.kill()
        self.start()

    def dead_letters(self) -> set[str]:
        """The ids of the dead letters in the spool of an agent that has ended."""
        with contextlib.closing(sqlite3.connect(self.spool_path)) as connection:
            return {json.loads(row[0])["id"] for row in connection.execute("select span from dead_letters")}


def zipkin_sender(url: str) -> dict[str, Any]:
    return {"type": "zipkin", "url": url, "timeout_s": SENDER_TIMEOUT_S}


def finish(
    agent: KilledAgent, promised: set[str], arrived: Callable[[], set[str]], refused: set[str]
) -> set[str]:
    """Wait until every promised span has arrived or was refused, and end the agent; the dead letters."""
    wait_until(
        lambda: promised <= arrived() | refused, f"the last of {len(promised)} spans", ARRIVAL_S, every_s=0.2
    )
    # Before its first line of Python runs, a signal ends any process.
    wait_until(agent.is_up, "the agent's start")
    assert agent.running.terminate() == 0, agent.running.stderr
    assert "0 left in the spool" in agent.running.stderr
    assert "Traceback" not in agent.running.stderr
    dead = agent.dead_letters()
    assert dead <= refused
    assert promised - arrived() - dead == set()
    return dead


def print_outcome(promised: set[str], stored: Counter[str], dead: set[str], more: str) -> None:
    repeated = sum(stored[span_id] - 1 for span_id in promised if span_id in stored)
    print(
        f"{len(promised)} spans promised, 0 lost, {repeated} repeated, "
        f"{len(dead - stored.keys())} refused and kept as dead letters; {more}"
    )


def span_of(service: str) -> MakeSpan:
    """Spans of a service, of now: Zipkin is asked for those of the last day."""
    timestamp_us = time.time_ns() // 1000
    return lambda number: (
        b'{"traceId":"%016x","id":"%016x","name":"get","timestamp":%d,"duration":10,'
        b'"localEndpoint":{"serviceName":"%b"}}' % (number, number, timestamp_us, service.encode())
    )
