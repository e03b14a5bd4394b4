"""docs/operation.md and docs/deployment.md say what the agent does."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from kaspan.agent.histogram import Histogram
from kaspan.agent.monitoring.metrics import PREFIX, render
from kaspan.agent.status import REASONS, ReceiverStatus, SenderStatus, SpoolStatus, Status, StoreStatus
from kaspan.config import load

DOCS = Path(__file__).parents[2] / "docs"
OPERATION = (DOCS / "operation.md").read_text(encoding="utf-8")
DEPLOYMENT = (DOCS / "deployment.md").read_text(encoding="utf-8")
DEPLOY = DOCS.parent / "deploy"
UNITS = [DEPLOY / "kaspan-agent.service", DEPLOY / "kaspan-server.service"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
_DROPS = ("dead_letters_full", "spool_damaged", "spool_expired", "sender_removed", "unreadable")


def names() -> set[str]:
    """The metrics of an agent, with the suffix of counters."""
    empty = Histogram.of((1,))
    sender = SenderStatus("s", 0, 0, 0, None, None, {"503": 1}, "", None, None, empty, empty, empty)
    status = Status(
        version="0",
        pid=1,
        started_at_s=0,
        problems=[],
        receivers=ReceiverStatus({}, {}, [], 0, 0),
        spool=SpoolStatus("/spool.db", 0, 0, 0, None, 0, 0, 0),
        senders=[sender],
        dropped_spans={},
        failed_spans={},
        store=StoreStatus("/store", 0, 0, 0, 0, 0, 0, None, empty),
    )
    families = text_string_to_metric_families(render(status))
    return {family.name + ("_total" if family.type == "counter" else "") for family in families}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


EXAMPLES = [*map(yaml.safe_load, blocks(DEPLOYMENT, "yaml")), COMPOSE]


def section(text: str, head: str) -> str:
    return text.split(f"\n{head}\n")[1].split("\n## ", maxsplit=1)[0]


def test_reference_has_every_metric_and_no_other() -> None:
    """What is exported is described, by its name."""
    rows = [line.split("|")[1] for line in section(OPERATION, "## Metrics").splitlines() if line[:3] == "| `"]
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    process = {name for name in names() if name.startswith("process_")}
    assert process <= set(re.findall(r"`(process_\w+)`", OPERATION))
    drops = documented & {*_DROPS, "processor_drop", "processor_redact_failed"}
    assert set(_DROPS) <= drops
    assert {PREFIX + name for name in documented - drops} == names() - process


def test_reference_has_every_reason() -> None:
    """Each thing that may be wrong is explained, and what to do."""
    rows = re.findall(r"^\| `(\w+)` \| (?:200|503) \|", OPERATION, re.M)
    assert sorted(rows) == sorted(REASONS)


def test_alerts_ask_for_what_there_is() -> None:
    """A rule on a name that does not exist never fires."""
    (rules,) = blocks(OPERATION, "yaml")
    alerts = [rule for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    asked = {name for alert in alerts for name in re.findall(r"kaspan_agent_\w+", alert["expr"])}
    assert len(alerts) >= 5
    assert asked <= names()


def environments() -> Iterator[dict[str, str]]:
    """The settings of every container and unit in the examples."""
    for example in EXAMPLES:
        yield from _environments(example)
    for unit in UNITS:
        lines = re.findall(r"^Environment=(\w+)=(.*)$", unit.read_text(), re.M)
        yield {name: value for name, value in lines if name != "KASPAN_CONFIG"}


def _environments(example: Any) -> Iterator[dict[str, str]]:
    if isinstance(example, list):
        for item in example:
            yield from _environments(item)
    elif isinstance(example, dict):
        for key, value in example.items():
            if key == "env":
                yield {entry["name"]: entry["value"] for entry in value}
            elif key == "environment":
                yield value
            else:
                yield from _environments(value)


@pytest.mark.parametrize("environ", list(environments()))
def test_examples_of_deployments_are_right_settings(environ: dict[str, str]) -> None:
    """The agent or the application starts with a copied example."""
    assert environ
    load(environ=environ)


def test_application_and_agent_of_an_example_share_a_directory() -> None:
    """Rings are written where they are read."""
    for example in EXAMPLES:
        merged = {name: value for found in _environments(example) for name, value in found.items()}
        settings = load(environ=merged).settings
        assert settings.interceptor.ring_dir in settings.agent.ring_dirs


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("described", UNITS, ids=lambda unit: unit.stem)
def test_unit_is_understood_by_systemd(tmp_path: Path, described: Path) -> None:
    """Every line of the unit is one that this systemd knows; only the agent is not where it says."""
    unit = tmp_path / described.name
    unit.write_text(described.read_text().replace("/opt/kaspan-agent/bin/kaspan", "/bin/sh"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", unit],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_images_of_compose_are_published_or_built_here() -> None:
    """Each service of the Compose file has an image: a public one, or a target of the Dockerfile."""
    stages = set(re.findall(r"^FROM .* AS (\w+)$", (DEPLOY / "Dockerfile").read_text(), re.M))
    for service in COMPOSE["services"].values():
        if "build" in service:
            assert service["build"]["target"] in stages
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        else:
            assert ":" in service["image"]


@pytest.mark.processes
@pytest.mark.parametrize("name", ["orders", "shipping", "mailer"])
def test_commands_of_compose_are_understood(name: str) -> None:
    """The demo's applications have the options that the Compose file gives them."""
    words = shlex.split(COMPOSE["services"][name]["command"])
    assert words[:5] == ["kaspan", "run", "--service", name, "--"]
    asked = subprocess.run(
        [sys.executable, *words[6:], "--help"], capture_output=True, text=True, check=False
    )
    options = [word for word in words[8:] if word.startswith("--")]

    assert asked.returncode == 0
    assert all(option in asked.stdout for option in options)
