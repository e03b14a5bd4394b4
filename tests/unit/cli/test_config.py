"""`kaspan config`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.cli.config import as_yaml, main
from kaspan.config import load
from kaspan.config.display import mask, quote, write
from kaspan.config.keys import leaves
from kaspan.config.schema import ZipkinSender


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("KASPAN_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KASPAN_SERVICE", "orders")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kaspan.yaml"


def test_config_prints_every_setting_with_its_origin(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each key has one line: key, value, where the value came from."""
    path.write_text("interceptor:\n  sampling: {rate: 0.1}\n")
    assert main(["--config", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(leaves())
    assert lines[0].split(maxsplit=2) == ["service", "orders", "environment KASPAN_SERVICE"]
    rate = next(line for line in lines if line.startswith("interceptor.sampling.rate"))
    assert rate.split() == ["interceptor.sampling.rate", "0.1", f"{path}:2"]


def test_config_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Values start in one column."""
    main([])
    lines = capsys.readouterr().out.splitlines()
    width = max(map(len, leaves()))
    assert {line[width : width + 2] for line in lines} == {"  "}
    assert all(line[width + 2] != " " for line in lines)


@pytest.mark.parametrize(
    "agent", ["senders: [{type: console}, {type: zipkin}]", "store: {}", "store: {max_age_s: 60}"]
)
def test_config_yaml_has_the_same_effect(path: Path, capsys: pytest.CaptureFixture[str], agent: str) -> None:
    """What `--format yaml` prints is a settings file that gives the same settings."""
    path.write_text(f"agent:\n  batch: {{flush_interval_s: 1e-7}}\n  {agent}\n")
    assert main(["--config", str(path), "--format", "yaml"]) == 0
    wanted = load(str(path)).settings
    path.write_text(capsys.readouterr().out)
    assert load(str(path), {}).settings == wanted


def test_config_refuses_a_bad_configuration(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, every error on standard error, nothing on standard output."""
    path.write_text("servce: a\nagent: 5\n")
    assert main(["--config", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [line.split(": ")[:2] for line in printed.err.splitlines()] == [
        ["kaspan config", f"{path}:1"],
        ["kaspan config", f"{path}:2"],
    ]


def test_config_masks_secrets(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The password in an address is not printed, in neither format."""
    path.write_text("agent: {senders: [{type: zipkin, url: 'http://me:hunter2@zipkin:9411'}]}")
    for form in ("text", "yaml"):
        main(["--config", str(path), "--format", form])
        printed = capsys.readouterr().out
        assert "http://me:***@zipkin:9411" in printed
        assert "hunter2" not in printed


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("agent.token", "t0p", '"***"'),
        ("agent.tls.key_password", ["a", "b"], '["***", "***"]'),
        ("agent.senders[0].headers", {"X-Key:hunter2": ""}, '{"X-Key:***": ""}'),
        ("agent.secrets", 5, '"***"'),
        ("agent.auth", {"client_secret": "x", "user": "me"}, '{client_secret: "***", user: me}'),
        (
            "agent.senders",
            (ZipkinSender(url="http://z", password="x"),),
            '[{type: zipkin, url: "http://z", format: json, password: "***", timeout_s: 10.0}]',
        ),
    ],
)
def test_written_value_masks_keys_named_like_secrets(key: str, value: object, shown: str) -> None:
    """A key whose name says password, secret or token is shown as ***, however deep it stands."""
    assert write(key, value) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@word@zipkin:9411/x", "http://me:***@zipkin:9411/x"),
        ("me:pass@zipkin", "me:***@zipkin"),
        ("http://zipkin:9411/x", "http://zipkin:9411/x"),
        ("http://zipkin:9411/x?key=abc", "http://zipkin:9411/x?***"),
        ("http://me:a?b@zipkin", "http://me:***@zipkin"),
        ("https://TOKEN@zipkin", "https://***@zipkin"),
        ("https://TOKEN:@zipkin", "https://***@zipkin"),
        ("TOKEN@zipkin", "***@zipkin"),
    ],
)
def test_mask_hides_what_lets_into_an_address(text: str, shown: str) -> None:
    """A password up to the last @ is hidden, and a name that comes without one: it may be a token."""
    assert mask("url", text) == shown


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_quoted_text_is_the_same_to_every_reader(text: str) -> None:
    """A YAML library reads text back as it was, from one printable line."""
    assert quote(text).isprintable()
    assert yaml.safe_load(f"[{quote(text)}]") == [text]


def test_yaml_comments_name_origins() -> None:
    """Each value's origin stands behind it."""
    assert as_yaml(load(None, {"KASPAN_SERVICE": "a"}))[:3] == [
        "service: a  # environment KASPAN_SERVICE",
        "interceptor:",
        "  enabled: true  # default",
    ]
