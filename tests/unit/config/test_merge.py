"""Sources over each other, and what loading brings into an application."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from kaspan.config import ConfigError, load
from kaspan.config.schema import ConsoleSender, Store, ZipkinSender, default_spool_path, default_store_path

FILE = "service: from-file\nagent:\n  batch: {max_bytes: 2048}\n  senders:\n    - type: console\n"


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = tmp_path / "kaspan.yaml"
    path.write_text(FILE)
    return str(path)


@pytest.mark.parametrize(
    ("state", "home", "expected"),
    [
        ("", "/home/shop", "/home/shop/.local/state"),
        ("/state", "/home/shop", "/state"),
        ("~/state", "/home/shop", "/home/shop/.local/state"),
        ("state", "/home/shop", "/home/shop/.local/state"),
        ("", None, "/var/lib"),
    ],
)
def test_spool_and_store_are_where_the_user_keeps_state(
    state: str, home: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that is not absolute does not count, and who has no home has the system's place."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # an unknown user
    monkeypatch.setenv("XDG_STATE_HOME", state)
    if home is None:
        monkeypatch.delenv("HOME", raising=False)
    else:
        monkeypatch.setenv("HOME", home)

    assert default_spool_path() == f"{expected}/kaspan/spool.db"
    assert default_store_path() == f"{expected}/kaspan/store"


def test_each_source_wins_over_the_ones_before(path: str) -> None:
    """Defaults, file, OpenTelemetry's variables, ours, command line: the last that speaks counts."""
    environ: dict[str, str] = {}
    arguments: dict[str, object] = {}
    seen = [load(None, environ, arguments)]
    environ["KASPAN_CONFIG"] = path
    seen.append(load(None, environ, arguments))
    environ["OTEL_SERVICE_NAME"] = "from-otel"
    seen.append(load(None, environ, arguments))
    environ["KASPAN_SERVICE"] = "from-variable"
    seen.append(load(None, environ, arguments))
    arguments["service"] = "from-argument"
    seen.append(load(None, environ, arguments))
    assert [(loaded.settings.service, loaded.origins["service"]) for loaded in seen] == [
        ("", "default"),
        ("from-file", f"{path}:1"),
        ("from-otel", "environment OTEL_SERVICE_NAME"),
        ("from-variable", "environment KASPAN_SERVICE"),
        ("from-argument", "command line"),
    ]


def test_origin_is_the_line_of_the_key(path: str) -> None:
    """The origin of a list or nested value is the line of its key; other keys keep their defaults."""
    origins = load(path, {}).origins
    assert origins["agent.batch.max_bytes"] == f"{path}:3"
    assert origins["agent.senders"] == f"{path}:4"
    assert origins["agent.batch.flush_interval_s"] == "default"


def test_given_file_wins_over_the_named_one(path: str) -> None:
    """KASPAN_CONFIG is not looked at when the command line names a file."""
    assert load(path, {"KASPAN_CONFIG": "/nowhere"}).settings.service == "from-file"


def test_errors_of_all_sources_are_collected(path: str) -> None:
    """Nothing hides behind the first source that is wrong, or behind one that overrides it."""
    Path(path).write_text("interceptor: {sampling: {rate: 7}}")
    environ = {"KASPAN_INTERCEPTOR__SAMPLING__RATE": "8", "OTEL_PROPAGATORS": "jaeger"}
    with pytest.raises(ConfigError) as refused:
        load(path, environ, {"interceptor.sampling.rate": 0.5, "servce": "x"})
    starts = [line.partition(": ")[0] for line in refused.value.errors]
    assert starts == [
        f"{path}:1",
        "environment KASPAN_INTERCEPTOR__SAMPLING__RATE",
        "command line",
        "environment OTEL_PROPAGATORS",
    ]


def test_unreadable_file_does_not_hide_errors_of_variables() -> None:
    """The environment is checked also when there is no file to check."""
    with pytest.raises(ConfigError) as refused:
        load("/nowhere/kaspan.yaml", {"KASPAN_SERVCE": "x"})
    assert len(refused.value.errors) == 2


def test_argument_that_is_none_is_not_given() -> None:
    """The command line may pass options that were not given."""
    assert load(None, {}, {"service": None}).origins["service"] == "default"


def test_arguments_may_be_structured() -> None:
    """A sender can be handed over as a map or as the schema's own struct."""
    for sender in ({"type": "console"}, ConsoleSender()):
        assert load(None, {}, {"agent.senders": [sender]}).settings.agent.senders == (ConsoleSender(),)


@pytest.mark.parametrize("text", ["{}", "{store: null}", "{spool: {}}"])
def test_agent_has_no_store_by_default(path: str, text: str) -> None:
    """The store is a section that may be absent."""
    Path(path).write_text(f"agent: {text}")
    agent = load(path, {}).settings.agent
    assert agent.store is None
    assert agent.senders == (ZipkinSender(),)


@pytest.mark.parametrize(
    "text", ["store: {}", "store:\n    # path: /spans", "store: {strict_trace_id: true}"]
)
def test_section_without_values_is_a_store_with_defaults(path: str, text: str) -> None:
    """To be there is enough, as for a section all of whose keys are commented out."""
    Path(path).write_text(f"agent:\n  {text}\n")
    assert load(path, {}).settings.agent.store == Store()


@pytest.mark.parametrize(
    ("environ", "arguments", "store"),
    [
        ({"KASPAN_AGENT__STORE": "{}"}, {}, Store()),
        ({"KASPAN_AGENT__STORE__PATH": "/spans"}, {}, Store(path="/spans")),
        ({}, {"agent.store": {}}, Store()),
        (
            {"KASPAN_AGENT__STORE__MAX_AGE_S": "60"},
            {"agent.store": {"path": "/s"}},
            Store(path="/s", max_age_s=60.0),
        ),
    ],
)
def test_every_source_can_add_a_store(
    environ: dict[str, str], arguments: dict[str, object], store: Store
) -> None:
    """Its keys are overridden one by one, as in any section."""
    assert load(None, environ, arguments).settings.agent.store == store


def test_store_takes_the_place_of_the_default_sender(path: str) -> None:
    """The default sender would post to the agent's own query address, where a Zipkin is expected."""
    loaded = load(None, {"KASPAN_AGENT__STORE": "{}"})
    assert loaded.settings.agent.senders == ()
    assert loaded.origins["agent.senders"] == "default"
    assert load(path, {"KASPAN_AGENT__STORE": "{}"}).settings.agent.senders == (ConsoleSender(),)
    environ = {"KASPAN_AGENT__STORE": "{}", "KASPAN_AGENT__SENDERS": "[]"}
    assert load(path, environ).settings.agent.senders == ()


def test_no_sender_is_an_error_without_a_store(path: str) -> None:
    """Spans would go nowhere; the error names the source that says so, whichever source would add a store."""
    with pytest.raises(ConfigError) as refused:
        load(path, {"KASPAN_AGENT__SENDERS": "[]"})
    assert refused.value.errors == (
        "environment KASPAN_AGENT__SENDERS: agent.senders is an empty list; the rule is a list of senders, "
        "each with its type, at least one unless there is agent.store",
    )
    assert load(path, {"KASPAN_AGENT__SENDERS": "[]"}, side="interceptor").warnings


@pytest.mark.processes
@pytest.mark.parametrize(
    ("environ", "loads_yaml"),
    [
        ({}, False),
        ({"KASPAN_SERVICE": "orders", "KASPAN_INTERCEPTOR__SAMPLING__RATE": "0.5"}, False),
        ({"OTEL_PROPAGATORS": "b3", "OTEL_EXPORTER_ZIPKIN_ENDPOINT": "http://zipkin:9411"}, False),
        ({"KASPAN_AGENT__RING_DIRS": "[/a]"}, True),
    ],
)
def test_loading_imports_only_what_it_needs(environ: dict[str, str], loads_yaml: bool) -> None:
    """Inside an application, YAML is imported when there is YAML, and nothing heavy in any case."""
    program = (
        f"import sys; from kaspan.config import load; load(None, {environ!r}); "
        "print(*{'yaml', 'tempfile', 'difflib', 'argparse', 'importlib.metadata'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == (["yaml"] if loads_yaml else [])
