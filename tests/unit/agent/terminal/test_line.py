"""kaspan.agent.terminal.line: text that is safe to print, in cells."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.terminal.line import Line, Piece, cells_of, fit, printable, wrap

any_text = st.text(max_size=40) | st.text(st.sampled_from("ab 注é\u0301"), max_size=40)
safe_text = any_text.map(lambda text: printable(text, 100))


@given(any_text, st.integers(0, 50))
def test_any_text_becomes_printable(text: str, max_characters: int) -> None:
    """Nothing controls the terminal, and there is a bound."""
    shown = printable(text, max_characters)

    assert shown.isprintable()
    assert len(shown) <= max_characters


@given(safe_text, st.integers(0, 60))
def test_text_is_cut_off_at_its_cells(text: str, cells: int) -> None:
    """What fits stays whole; what does not ends with an ellipsis."""
    shown = fit(text, cells)

    assert cells_of(shown) <= cells
    assert shown in (text, "") or shown.endswith("…")


@given(safe_text, st.integers(0, 60))
def test_wrapped_text_fits_and_loses_no_letter(text: str, cells: int) -> None:
    """Only blanks may go."""
    lines = list(wrap(text, cells))

    assert all(cells_of(line) <= max(2, cells) for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(text.split())


@given(st.lists(st.builds(Piece, safe_text, st.sampled_from(["", "red"]))), st.integers(0, 60))
def test_line_is_cropped_with_its_styles(pieces: list[Piece], cells: int) -> None:
    """It has no blanks at its end, which would be copied with it."""
    text = str(Line(*pieces).cropped(cells))

    assert cells_of(text) <= cells
    assert text == text.rstrip()


def test_cells_are_filled_at_the_side_that_is_asked_for() -> None:
    """Names stand at the left of their column, numbers at the right."""
    assert str(Line().add("注", "", 4).add("1", "", 3, right=True)) == "注    1"
