"""kaspan.config.errors: text from elsewhere, fit to be shown."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kaspan.config.errors import escaped_json

JSON = st.recursive(
    st.none() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)


@given(JSON, st.none() | st.just(2))
def test_json_stays_the_same_json_and_is_fit_for_a_terminal(value: object, indent: int | None) -> None:
    """A pipe gets the same text, and no output sends control characters to a terminal."""
    text = escaped_json(json.dumps(value, ensure_ascii=False, indent=indent))
    assert text.isprintable()
    assert json.loads(text) == value
