"""`kaspan server`: which settings it has, and that it leaves the agent of the machine alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kaspan.cli.server import load_server, parse
from kaspan.config import ConfigError, schema


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 4242)
    for name in [name for name in os.environ if name.startswith(("KASPAN_", "OTEL_"))]:
        monkeypatch.delenv(name)


def settings_of(*arguments: str) -> schema.Agent:
    return load_server(parse(arguments)).settings.agent


def test_server_is_a_zipkin_without_any_setting(tmp_path: Path) -> None:
    """Zipkin's port, a store where kaspan keeps its state, and nobody to send to."""
    agent = settings_of()
    assert agent.listen == "127.0.0.1:9411"
    assert agent.store == schema.Store(path=f"{tmp_path}/kaspan/store")
    assert agent.senders == ()


def test_server_takes_nothing_of_the_local_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both may run as one user, with one settings file: rings, socket and spool are the agent's."""
    file = tmp_path / "kaspan.yaml"
    file.write_text("agent: {socket: /run/agent.sock, ring_dirs: [/rings], spool: {path: /spool.db}}")
    monkeypatch.setenv("KASPAN_CONFIG", str(file))
    agent = settings_of()
    assert (agent.socket, agent.ring_dirs) == ("", ())
    assert agent.spool.path == f"{tmp_path}/kaspan/store-spool.db"


def test_server_has_all_other_settings_of_an_agent(tmp_path: Path) -> None:
    """Token, store, senders and the rest come from the file."""
    file = tmp_path / "kaspan.yaml"
    file.write_text(
        "agent:\n  listen: 10.0.0.1:9411\n  token: hunter2-hunter2\n  store: {path: /spans, max_age_s: 60}\n"
        "  spool: {max_bytes: 2097152}\n  senders: [{type: console}]\n"
    )
    agent = settings_of("--config", str(file))
    assert (agent.listen, agent.token) == ("10.0.0.1:9411", "hunter2-hunter2")
    assert agent.store == schema.Store(path="/spans", max_age_s=60.0)
    assert agent.spool == schema.Spool(path="/spans-spool.db", max_bytes=2097152)
    assert agent.senders == (schema.ConsoleSender(),)


def test_command_line_of_the_server_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--store is relative to where the command is given, as any path that a user types."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KASPAN_AGENT__LISTEN", "10.0.0.1:9411")
    agent = settings_of("--listen", "127.0.0.1:9999", "--store", "spans")
    assert agent.listen == "127.0.0.1:9999"
    assert agent.store is not None
    assert agent.store.path == f"{tmp_path}/spans"


def test_where_applications_report_is_not_where_the_server_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTEL_EXPORTER_ZIPKIN_ENDPOINT, set for all programs of a user, is the server itself."""
    monkeypatch.setenv("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "http://127.0.0.1:9411/api/v2/spans")
    assert settings_of().senders == ()


def test_server_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could reach it."""
    monkeypatch.setenv("KASPAN_AGENT__LISTEN", "")
    with pytest.raises(ConfigError) as refused:
        settings_of()
    assert refused.value.errors == (
        "environment KASPAN_AGENT__LISTEN: agent.listen is empty; a server needs an address, such as "
        "127.0.0.1:9411",
    )
