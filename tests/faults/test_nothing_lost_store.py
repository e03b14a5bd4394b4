"""The promise of a store: what agent or server have taken is found by its trace id, whatever is killed."""

from __future__ import annotations

import random
import socket

from kaspan.agent.senders.store import COMMIT_INTERVAL_S
from support.deployment import Deployment
from support.killed_agent import KILLS, KilledAgent
from support.load import Applications
from support.span_server import missing_traces
from support.waiting import wait_until


def kill_and_count(agent: KilledAgent, applications: Applications, rng: random.Random) -> set[str]:
    """Kill the agent over and over under load, end it well at last, and give the promised ids."""
    for _ in range(KILLS):
        agent.kill(rng, 3 * COMMIT_INTERVAL_S)
        applications.replace_one(rng)
    promised = applications.end()
    wait_until(agent.is_up, "the agent's start")
    assert agent.running.terminate() == 0, agent.running.stderr
    assert "0 left in the spool" in agent.running.stderr
    assert "Traceback" not in agent.running.stderr
    assert agent.dead_letters() == set()
    assert len(promised) > 100 * KILLS
    return promised


def test_nothing_is_lost_in_the_store_of_a_killed_agent(deployment: Deployment) -> None:
    """SIGKILLs at random moments; spans come from rings and by its unix socket."""
    store = deployment.directory / "store"
    agent = KilledAgent(deployment, None, ("agent", "--store", str(store)))
    applications = Applications(deployment.ring_dir, agent.socket)
    promised = kill_and_count(agent, applications, random.Random(14))
    assert missing_traces(store, promised) == []
    print(f"{len(promised)} spans promised, 0 lost; {KILLS} kills of an agent with a store")


def test_nothing_is_lost_in_the_store_of_a_killed_server(deployment: Deployment) -> None:
    """SIGKILLs at random moments; each span that was answered 202 is found."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = ("127.0.0.1", free.getsockname()[1])
    store = deployment.directory / "store"
    command = ("server", "--listen", f"127.0.0.1:{address[1]}", "--store", str(store))
    agent = KilledAgent(deployment, None, command, KASPAN_AGENT__SPOOL__PATH=f"{store}-spool.db")
    applications = Applications(deployment.ring_dir, address, rings=0, clients=6)
    promised = kill_and_count(agent, applications, random.Random(15))
    assert missing_traces(store, promised) == []
    print(f"{len(promised)} spans promised, 0 lost; {KILLS} kills of a server")
