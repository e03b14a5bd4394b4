"""kaspan.agent.terminal.screen: colours for terminals, plain text for all else."""

from __future__ import annotations

import io

import pytest

from kaspan.agent.terminal.line import Line, Piece
from kaspan.agent.terminal.screen import Screen

LINE = Line(Piece("orders", "cyan"), Piece(" ━┄ 5 µs"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def printed(stream: io.StringIO) -> str:
    Screen(stream).print([LINE])
    return stream.getvalue()


def test_terminal_has_colours() -> None:
    """And every style ends where its text ends."""
    assert printed(Terminal()) == "\x1b[36morders\x1b[0m ━┄ 5 µs\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_terminal_has_no_colours_if_the_user_wants_none(
    name: str, value: str, environment: pytest.MonkeyPatch
) -> None:
    """NO_COLOR and terminals that know no colours."""
    environment.setenv(name, value)

    assert printed(Terminal()) == "orders ━┄ 5 µs\n"


def test_pipe_has_plain_text_unless_colours_are_asked_for(environment: pytest.MonkeyPatch) -> None:
    """What is piped can be read by programs."""
    assert printed(io.StringIO()) == "orders ━┄ 5 µs\n"
    environment.setenv("FORCE_COLOR", "1")
    assert "\x1b[36m" in printed(io.StringIO())


@pytest.mark.parametrize(
    ("encoding", "text"), [("latin-1", "orders =. 5 us\n"), ("ascii", "orders =. 5 us\n")]
)
def test_encoding_without_these_signs_gets_ascii(encoding: str, text: str) -> None:
    """An old locale is no reason for a traceback."""
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    Screen(stream).print([LINE])

    assert raw.getvalue().decode(encoding) == text


def test_width_is_that_of_columns(environment: pytest.MonkeyPatch) -> None:
    """So that a script can say how wide lines may be."""
    environment.setenv("COLUMNS", "123")

    assert Screen(io.StringIO()).width == 123
