"""Senders of other packages: found, checked, made; and the conformance test tells right from wrong ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kaspan.agent.senders.base import SettingError
from kaspan.agent.senders.build import build, make
from kaspan.agent.senders.conformance import SenderConformance
from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.agent.senders.zipkin import ZipkinSender
from kaspan.config import ConfigError, load, schema
from support import plugin_senders
from support.deployment import Deployment
from support.plugin_senders import ListSender, install
from support.ring_writer import RingWriter, span
from support.waiting import wait_until

WRONG = {
    "nameless": ("Nameless", "test_name_is_the_same_for_the_same_target_and_shows_no_secret"),
    "leaking": ("Leaking", "test_name_is_the_same_for_the_same_target_and_shows_no_secret"),
    "silent": ("Silent", "test_many_messages_arrive"),
    "rewriting": ("Rewriting", "test_spans_arrive_as_they_were"),
    "losing": ("Losing", "test_target_that_is_away_is_a_failure_and_loses_nothing"),
    "raising": ("Raising", "test_target_that_is_away_is_a_failure_and_loses_nothing"),
    "repeating": ("Repeating", "test_bytes_that_are_no_spans_hold_up_nothing"),
    "holding": ("Holding", "test_rows_are_given_up_when_they_are_passed"),
    "overtaking": ("Overtaking", "test_rows_are_given_up_when_they_are_passed"),
    "unsettable": ("Unsettable", "test_settings_are_of_kinds_that_users_can_set"),
}
EXAMPLE = Path(__file__).parents[4] / "docs" / "examples" / "kaspan-file-sender"


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the senders of support/plugin_senders.py for one test."""
    right = {
        "list": "support.plugin_senders:ListSender",
        "broken": "support.plugin_senders:Broken",
        "function": "support.plugin_senders:not_a_sender",
        "gone": "nowhere.to.be.found:Sender",
        "zipkin": "support.plugin_senders:ListSender",
    }
    wrong = {name: f"support.plugin_senders:{kind}" for name, (kind, _) in WRONG.items()}
    monkeypatch.syspath_prepend(str(install(tmp_path / "site", **right, **wrong)))
    ListSender.taken.clear()
    yield
    for sender in (ListSender, *(getattr(plugin_senders, kind) for kind, _ in WRONG.values())):
        sender.is_away = False


def settings_of(*entries: dict[str, object]) -> tuple[Any, ...]:
    arguments = {"agent.senders": list(entries)}
    return load(None, {}, arguments, senders=InstalledSenders()).settings.agent.senders


def refusal_of(*entries: dict[str, object], **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        build(settings_of(*entries), schema.Batch(), environ)
    return list(refused.value.errors)


def test_installed_sender_is_made_with_its_settings() -> None:
    """The class behind the entry point gets an instance of its own Settings."""
    (sender,) = build(settings_of({"type": "list", "names": ["a", "b"]}), schema.Batch(), {})
    assert isinstance(sender, ListSender)
    assert isinstance(sender.settings, plugin_senders.ListSettings)
    assert (sender.name, sender.settings.names) == ("list a,b", ("a", "b"))


def test_kaspans_own_senders_cannot_be_taken_over() -> None:
    """Whatever another package calls itself, zipkin is kaspan's."""
    (settings,) = settings_of({"type": "zipkin"})
    assert isinstance(make(settings, schema.Batch()), ZipkinSender)


def test_unknown_type_comes_with_what_is_installed() -> None:
    """One may have misspelt it, or not have installed the package."""
    (error,) = refusal_of({"type": "lisst"})
    assert 'agent.senders[0].type is "lisst"; the rule is one of zipkin, kafka, console' in error
    assert " list" in error


@pytest.mark.parametrize(
    ("type_", "said"),
    [
        ("gone", "nowhere.to.be.found:Sender of other-senders 1.0 cannot be loaded: ModuleNotFoundError"),
        ("function", "support.plugin_senders:not_a_sender of other-senders 1.0 is not a sender"),
        ("broken", "agent.senders[0] (broken) cannot be made: RuntimeError: no such thing"),
    ],
)
def test_package_that_is_wrong_is_named(type_: str, said: str) -> None:
    """The agent does not start, and says whose fault it is."""
    (error,) = refusal_of({"type": type_})
    assert said in error


def test_senders_own_rules_are_errors_of_the_settings() -> None:
    """With the key, as any other error."""
    assert refusal_of({"type": "console"}, {"type": "list", "names": ["wrong"]}) == [
        "agent.senders[1].names is [wrong]; the rule is another one"
    ]


def test_secrets_come_from_the_environment() -> None:
    """Where a key is named like a secret, ${NAME} is a variable of the agent's; a missing one is named."""
    entry = {"type": "list", "token": "${LIST_TOKEN}", "names": ["${LIST_TOKEN}"]}
    (sender,) = build(settings_of(entry), schema.Batch(), {"LIST_TOKEN": "abc"})
    assert isinstance(sender, ListSender)
    assert (sender.settings.token, sender.settings.names) == ("abc", ("${LIST_TOKEN}",))
    (error,) = refusal_of(entry)
    assert error.startswith("agent.senders[0].token: the environment variable LIST_TOKEN is not set")
    headers = {"type": "zipkin", "headers": {"X-Key": "${KEY}"}}
    (zipkin,) = build(settings_of(headers), schema.Batch(), {"KEY": "abc"})
    assert isinstance(zipkin, ZipkinSender)
    assert zipkin._headers["X-Key"] == "abc"


def test_one_sender_for_each_target() -> None:
    """The same entry twice is one; two entries for one target would share a cursor, and are refused."""
    twice = settings_of({"type": "list"}, {"type": "list"}, {"type": "zipkin"}, {"type": "zipkin"})
    assert len(build(twice, schema.Batch(), {})) == 2
    (error,) = refusal_of({"type": "list"}, {"type": "list", "token": "abc"})
    assert error.startswith("agent.senders[1] sends to list list, as agent.senders[0] does")


def test_all_errors_are_said_at_once() -> None:
    """One look at the output is enough to correct them."""
    errors = refusal_of({"type": "list", "names": ["wrong"]}, {"type": "zipkin", "password": "abc"})
    assert [error.split()[0] for error in errors] == ["agent.senders[0].names", "agent.senders[1].password"]


def test_setting_error_names_key_and_problem() -> None:
    """What authors raise."""
    error = SettingError("path", "is wrong")
    assert (error.key, str(error)) == ("path", "is wrong")


class ListConformance(SenderConformance):
    """The conformance test of the senders in support/plugin_senders.py."""

    def settings(self) -> Mapping[str, object]:
        return {} if self.type == "unsettable" else {"token": "hunter22"}

    def received(self) -> Sequence[dict[str, Any]]:
        return [json.loads(taken) for taken in ListSender.taken]

    def _kind(self) -> type[ListSender]:
        kind: type[ListSender] = InstalledSenders().sender(self.type)  # type: ignore[assignment]
        return kind

    def stop_target(self) -> None:
        self._kind().is_away = True

    def start_target(self) -> None:
        self._kind().is_away = False


class TestListSender(ListConformance):
    type = "list"


@pytest.mark.parametrize("type_", sorted(WRONG))
def test_conformance_test_finds_what_is_wrong(type_: str) -> None:
    """Each way to lose, change or repeat spans fails a test that says so."""
    wrong = ListConformance()
    wrong.type = type_
    with pytest.raises((AssertionError, OSError)):
        getattr(wrong, WRONG[type_][1])()


def test_settings_that_a_file_can_hold_are_told_from_others() -> None:
    """What the conformance test allows, the settings' check can read."""
    (settings,) = settings_of({"type": "list", "names": ["a"], "token": "abc"})
    assert msgspec.to_builtins(settings) == {"type": "list", "names": ("a",), "token": "abc"}


@pytest.fixture
def example(tmp_path: Path) -> str:
    """Install docs/examples/kaspan-file-sender as far as that takes no network; its path for PYTHONPATH."""
    entry_point = 'file = "kaspan_file_sender:FileSender"'
    assert f'[project.entry-points."kaspan.senders"]\n{entry_point}\n' in (
        EXAMPLE / "pyproject.toml"
    ).read_text("utf-8")
    site = install(tmp_path / "example", file="kaspan_file_sender:FileSender")
    return os.pathsep.join((str(site), str(EXAMPLE), os.environ.get("PYTHONPATH", "")))


@pytest.mark.processes
def test_example_passes_its_own_tests(example: str, tmp_path: Path) -> None:
    """What docs/senders.md tells authors to do works."""
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=EXAMPLE,
        env={**os.environ, "PYTHONPATH": example},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "11 passed" in ran.stdout


def test_agent_delivers_through_the_example(example: str, deployment: Deployment, tmp_path: Path) -> None:
    """A running agent finds the installed sender by its type, and its file has the application's spans."""
    path = tmp_path / "spans.jsonl"
    deployment.ring_dir.mkdir(mode=0o700)
    ring = RingWriter(deployment.ring_dir)
    for number in range(1, 4):
        ring.put(span(number))
    senders = f"[{{type: file, path: {path}}}]"
    running = deployment.start_agent(PYTHONPATH=example, KASPAN_AGENT__SENDERS=senders)
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") == 3, "three spans in the file")
    assert path.read_bytes().split(b"\n")[:3] == [span(number) for number in range(1, 4)]
    assert running.terminate() == 0
    ring.die()
