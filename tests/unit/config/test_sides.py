"""The sides: each is strict about its own section, and ignores mistakes in the other's."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaspan.config import ConfigError, Settings, load
from kaspan.config.errors import Side

UNKNOWN_OF_AGENT = "agent: {spool: {compression: zstd}}"
BAD_OF_AGENT = "agent: {senders: [{type: pulsar}], batch: {max_bytes: 1}, log: 5}"
TWICE_OF_AGENT = "agent: {listen: 'a:1', listen: 'b:1'}"
UNKNOWN_OF_INTERCEPTOR = "interceptor: {baggage: true}"
BAD_OF_INTERCEPTOR = "interceptor: {sampling: {rate: 7}}"
UNKNOWN_AT_THE_TOP = "store: {path: /var/lib}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kaspan.yaml"


LEFT_ASIDE = [
    ("interceptor", UNKNOWN_OF_AGENT),
    ("interceptor", BAD_OF_AGENT),
    ("interceptor", TWICE_OF_AGENT),
    ("interceptor", UNKNOWN_OF_INTERCEPTOR),
    ("interceptor", UNKNOWN_AT_THE_TOP),
    ("agent", UNKNOWN_OF_INTERCEPTOR),
    ("agent", BAD_OF_INTERCEPTOR),
]
REFUSED = [
    ("interceptor", BAD_OF_INTERCEPTOR),
    ("interceptor", "service: 42"),
    ("agent", UNKNOWN_OF_AGENT),
    ("agent", BAD_OF_AGENT),
    ("agent", TWICE_OF_AGENT),
    ("agent", UNKNOWN_AT_THE_TOP),
    *(
        (None, text)
        for text in (UNKNOWN_OF_AGENT, UNKNOWN_OF_INTERCEPTOR, BAD_OF_INTERCEPTOR, UNKNOWN_AT_THE_TOP)
    ),
]


@pytest.mark.parametrize(("side", "text"), LEFT_ASIDE)
def test_what_is_not_the_sides_own_is_left_aside_with_a_warning(path: Path, side: Side, text: str) -> None:
    """A wrong setting of the other side, or one that is unknown to an interceptor, is only a warning."""
    path.write_text(f"{text}\nservice: orders\n")
    loaded = load(str(path), {}, side=side)

    assert loaded.settings.service == "orders"
    assert loaded.warnings
    assert all(line.startswith(f"{path}:1: ") for line in loaded.warnings)


@pytest.mark.parametrize(("side", "text"), REFUSED)
def test_what_is_the_sides_own_is_refused(path: Path, side: Side | None, text: str) -> None:
    """A value that a side would have to guess, and anything the agent does not know, is an error."""
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(str(path), {}, side=side)

    assert all(line.startswith(f"{path}:1: ") for line in refused.value.errors)


@pytest.mark.parametrize(
    ("side", "name", "text"),
    [
        ("interceptor", "KASPAN_AGENT__SENDERS", "[broken"),
        ("interceptor", "KASPAN_AGENT__NEW", "1"),
        ("interceptor", "KASPAN_AGENT_TOKEN", "secret"),
        ("interceptor", "KASPAN_INTERCEPTOR__NEW", "1"),
        ("interceptor", "OTEL_EXPORTER_ZIPKIN_ENDPOINT", "zipkin:9411"),
        ("agent", "KASPAN_INTERCEPTOR__SAMPLING__RATE", "7"),
    ],
)
def test_variables_of_the_other_side_are_left_aside_as_well(side: Side, name: str, text: str) -> None:
    """A container's environment is shared as a file is."""
    loaded = load(None, {name: text}, side=side)

    assert loaded.settings == Settings()
    assert loaded.warnings
    assert all(line.startswith(f"environment {name}: ") for line in loaded.warnings)


@pytest.mark.parametrize("name", ["KASPAN_AGENT_TOKEN", "KASPAN_AGENT__NEW", "OTEL_EXPORTER_ZIPKIN_ENDPOINT"])
def test_agent_refuses_a_variable_of_its_own_that_it_cannot_follow(name: str) -> None:
    """An unknown variable of the agent is an error: with a misspelt token it would listen without one."""
    with pytest.raises(ConfigError):
        load(None, {name: "something"}, side="agent")


def test_entry_of_a_list_is_used_without_the_key_that_is_unknown(path: Path) -> None:
    """A newer key of a function or rule costs that key and not the list."""
    path.write_text('interceptor: {functions: [{call: "shop:handle", links: true}]}')
    loaded = load(str(path), {}, side="interceptor")

    assert [function.call for function in loaded.settings.interceptor.functions] == ["shop:handle"]
    assert len(loaded.warnings) == 1


def test_warnings_are_bounded(path: Path) -> None:
    """A file that is not one of settings does not fill an application's log."""
    path.write_text("".join(f"key{number}: 1\n" for number in range(1000)))
    warnings = load(str(path), {}, side="interceptor").warnings

    assert len(warnings) == 101
    assert warnings[-1] == "and 900 more like these"
