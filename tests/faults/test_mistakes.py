"""A mistake is said once and clearly; the application never feels it, the agent does not start."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from support.deployment import Deployment, python
from support.mistakes import OF_AGENT, OF_APPLICATION, RING_DIRS, Mistake
from support.process import RunningProcess

APPLICATION = """
import sys
from kafka import KafkaProducer
settings = {"bootstrap_servers": sys.argv[1], "api_version": (2, 3)}
if "enable_idempotence" in KafkaProducer.DEFAULT_CONFIG:
    settings["enable_idempotence"] = False
producer = KafkaProducer(**settings)
for number in range(3):
    metadata = producer.send(sys.argv[2], b"%d" % number, partition=0).get(timeout=30)
    print(metadata.partition, metadata.offset)
producer.close()
sys.exit(7)
"""
EXPECTED_OUTPUT = "0 0\n0 1\n0 2\n"
EXPECTED_CODE = 7


def run_application(deployment: Deployment, broker: str, **variables: str) -> RunningProcess:
    application = deployment.start_traced(
        "shop", *python("-c", APPLICATION, broker, f"topic-{uuid.uuid4().hex}"), **variables
    )
    application.wait()
    return application


def assert_unharmed_and_warned_once(application: RunningProcess, said: tuple[str, ...]) -> None:
    assert application.process.returncode == EXPECTED_CODE, application.stderr
    assert application.stdout == EXPECTED_OUTPUT
    assert application.stderr.count("kaspan:") == 1, application.stderr
    assert application.stderr.startswith("kaspan:")
    assert "Traceback" not in application.stderr
    for words in said:
        assert words in application.stderr


def test_application_with_good_settings_says_nothing(deployment: Deployment, broker: str) -> None:
    """Under kaspan run with nothing wrong, an application's output, errors and exit code are its own."""
    application = run_application(deployment, broker)

    assert application.process.returncode == EXPECTED_CODE
    assert application.stdout == EXPECTED_OUTPUT
    assert application.stderr == ""


@pytest.mark.parametrize("make", OF_APPLICATION.values(), ids=OF_APPLICATION.keys())
def test_application_runs_untraced_with_one_warning_when_settings_are_wrong(
    make: Callable[[Path], Mistake], deployment: Deployment, broker: str
) -> None:
    """With a mistake in the settings an application does what it does, and one warning names the mistake."""
    mistake = make(deployment.directory)

    application = run_application(deployment, broker, **mistake.variables)

    assert_unharmed_and_warned_once(application, mistake.said)
    assert not deployment.ring_dir.exists()


@pytest.mark.parametrize("make", OF_AGENT.values(), ids=OF_AGENT.keys())
def test_agent_refuses_to_start_when_settings_are_wrong(
    make: Callable[[Path], Mistake], deployment: Deployment
) -> None:
    """With a mistake in the settings the agent ends at once with exit code 2 and names the mistake."""
    mistake = make(deployment.directory)

    agent = deployment.start_agent(**mistake.variables)

    assert agent.wait() == 2
    assert_refused(agent, mistake.said)
    assert not deployment.spool_path.exists()


def assert_refused(agent: RunningProcess, said: tuple[str, ...]) -> None:
    assert agent.stdout == ""
    assert all(line.startswith("kaspan agent: ") for line in agent.stderr.splitlines()), agent.stderr
    for words in said:
        assert words in agent.stderr


@pytest.mark.parametrize(("make", "said"), RING_DIRS.values(), ids=RING_DIRS.keys())
def test_application_runs_on_with_one_warning_when_its_ring_directory_cannot_be_used(
    make: Callable[[Path], Path], said: str, deployment: Deployment, broker: str
) -> None:
    """Where no ring can be made an application does what it does; one warning names directory and rule."""
    path = str(make(deployment.directory))

    application = run_application(deployment, broker, KASPAN_INTERCEPTOR__RING_DIR=path)

    assert_unharmed_and_warned_once(application, ("interceptor.ring_dir", path, said))


@pytest.mark.parametrize(("make", "said"), RING_DIRS.values(), ids=RING_DIRS.keys())
def test_agent_refuses_to_start_when_a_ring_directory_cannot_be_used(
    make: Callable[[Path], Path], said: str, deployment: Deployment
) -> None:
    """Where a ring directory breaks a rule the agent ends with exit code 2 and names directory and rule."""
    path = str(make(deployment.directory))

    agent = deployment.start_agent(KASPAN_AGENT__RING_DIRS=f"[{path}]")

    assert agent.wait() == 2
    assert_refused(agent, ("agent.ring_dirs", path, said))
