"""`kaspan agent`: what its command line means, and what the agent is made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kaspan.agent.senders.build import make
from kaspan.agent.senders.console import ConsoleSender
from kaspan.agent.senders.zipkin import ZipkinSender
from kaspan.cli.agent import parse_settings
from kaspan.config import load, schema
from support.deployment import Deployment
from support.waiting import wait_until

FORBIDDEN = ("opentelemetry", "kafka", "kaspan.interceptor", "rich", "asyncio", "aiohttp")


def test_command_line_replaces_the_senders() -> None:
    """--zipkin and --console are short for the list of senders."""
    assert parse_settings(["--zipkin", "http://z:9411", "--console"])["agent.senders"] == [
        {"type": "zipkin", "url": "http://z:9411"},
        {"type": "console"},
    ]


def test_command_line_without_options_changes_nothing() -> None:
    """Options that are not given are left to the file, the environment and the defaults."""
    assert set(parse_settings([]).values()) == {None}


def test_store_may_be_where_it_is_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--store alone is a store with the settings that there are; with a path it is in that directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KASPAN_AGENT__STORE__MAX_AGE_S", "60")
    for arguments, path in ((["--store"], schema.Store().path), (["--store", "spans"], f"{tmp_path}/spans")):
        loaded = load(arguments=parse_settings([*arguments, "--console"]))
        assert loaded.settings.agent.store == schema.Store(path=path, max_age_s=60.0)
        assert loaded.settings.agent.senders == (schema.ConsoleSender(),)


def test_paths_are_relative_to_where_the_command_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user types paths as in any command; the settings want them absolute."""
    monkeypatch.chdir(tmp_path)
    settings = parse_settings(["--ring-dir", "rings", "--ring-dir", "/more", "--spool", "spool.db"])
    assert settings["agent.ring_dirs"] == [f"{tmp_path}/rings", "/more"]
    assert settings["agent.spool.path"] == f"{tmp_path}/spool.db"


def test_home_directory_may_begin_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~ in --spool=~/spool.db, which shells do not expand, is the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = parse_settings(["--ring-dir=~/rings", "--spool=~/spool.db"])

    assert settings["agent.ring_dirs"] == [f"{tmp_path}/rings"]
    assert settings["agent.spool.path"] == f"{tmp_path}/spool.db"


def test_home_directory_that_nobody_knows_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Whose home it is has to be known."""
    with pytest.raises(SystemExit) as ended:
        parse_settings(["--spool=~no-such-user/spool.db"])

    assert ended.value.code == 2
    assert (
        "argument --spool: no home directory is known for ~no-such-user/spool.db" in capsys.readouterr().err
    )


def test_agent_goes_on_without_settings_that_are_not_its_own(
    deployment: Deployment,
) -> None:
    """A Dockerfile's variable and a mistake in the interceptor's section are only warnings in its log."""
    foreign = {"KASPAN_VERSION": "1", "KASPAN_INTERCEPTOR__SAMPLING__RATE": "7"}
    agent = deployment.start_agent("--console", **foreign)
    wait_until(lambda: "reads rings in" in agent.stderr, "the agent is ready")

    for name in foreign:
        assert f"WARNING settings: environment {name}: " in agent.stderr
    assert agent.terminate() == 0


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--zipkin", "zipkin"], "agent.senders"),
        (["--spool", "/proc/spool.db"], "agent.spool.path: /proc/spool.db cannot be"),
        (["--ring-dir", "/dev/null"], "agent.ring_dirs: /dev/null is not a directory"),
        (["--store", "/proc/store"], "the span store /proc/store cannot be created"),
        (
            ["--zipkin", "http://localhost:9412"],
            "command line: agent.senders[0].url is the address of this agent's own agent.listen",
        ),
    ],
)
def test_agent_that_cannot_start_ends_with_2_and_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """A mistake is one line on standard error, and nothing is started."""
    monkeypatch.setenv("KASPAN_AGENT__RING_DIRS", f"[{tmp_path}/rings]")
    monkeypatch.setenv("KASPAN_AGENT__SPOOL__PATH", f"{tmp_path}/spool.db")
    command = [sys.executable, "-m", "kaspan.cli.main", "agent", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("kaspan agent: ")
    assert ran.stderr.count("\n") == 1
    assert said in ran.stderr


def test_each_entry_of_senders_makes_its_sender() -> None:
    """The type decides, and the console waits for one flush more than an application does."""
    zipkin = make(schema.ZipkinSender(url="http://z:9411"), schema.Batch())
    assert isinstance(zipkin, ZipkinSender)
    assert zipkin.name == "zipkin http://z:9411/api/v2/spans"
    assert isinstance(make(schema.ConsoleSender(), schema.Batch()), ConsoleSender)


@pytest.mark.processes
def test_agent_imports_nothing_that_could_trace_it() -> None:
    """No OpenTelemetry, no kafka, no interceptor; and nothing large that it does not use."""
    program = (
        "import sys, kaspan.cli.agent, kaspan.agent.agent, kaspan.agent.senders.zipkin\n"
        f"print([name for name in {FORBIDDEN!r} if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
