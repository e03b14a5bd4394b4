"""kaspan.agent.environment: variables in the values of settings."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.environment import VariableError, expand


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${POD}", "orders-7f"),
        ("in-${POD}.${ZONE:-here}", "in-orders-7f.here"),
        ("${NONE:-}", ""),
        ("${EMPTY:-none}", "none"),
        ("${POD:-none}", "orders-7f"),
        ("$POD costs 5$", "$POD costs 5$"),
        ("$${POD}", "${POD}"),
    ],
)
def test_reference_becomes_the_variable(text: str, value: str) -> None:
    """${NAME} is the variable's value, ${NAME:-default} the default without one, $${ is the text ${."""
    assert expand(text, {"POD": "orders-7f", "EMPTY": ""}) == value


@pytest.mark.parametrize("environ", [{}, {"POD_NAME": ""}])
def test_variable_that_is_not_set_is_an_error(environ: dict[str, str]) -> None:
    """A variable that is missing or empty, without a default, is named with what to do."""
    with pytest.raises(VariableError) as refused:
        expand("pod ${POD_NAME}", environ)
    assert str(refused.value) == (
        "the environment variable POD_NAME is not set or empty; set it for the agent, or write "
        "${POD_NAME:-default}"
    )


@pytest.mark.parametrize("text", ["${}", "${POD", "${pod-name}", "${POD-x}", "${POD:=x}", "${1}"])
def test_broken_reference_is_an_error(text: str) -> None:
    """What begins like a reference and is none does not become text."""
    with pytest.raises(VariableError, match=r"is not a reference to a variable; the rule is \$\{NAME\}"):
        expand(text, {"POD": "x"})


def test_value_that_is_not_utf8_is_an_error() -> None:
    """A variable with bytes that are not UTF-8 cannot be in a span, and its value is not shown."""
    with pytest.raises(VariableError, match="the environment variable POD is not UTF-8; correct it"):
        expand("${POD}", {"POD": b"\xff".decode("utf-8", "surrogateescape")})


@given(value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_value_is_not_expanded_again(value: str) -> None:
    """The value of a variable is text, whatever it looks like."""
    assert expand("${A}", {"A": value}) == value
