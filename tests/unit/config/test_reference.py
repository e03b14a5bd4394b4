"""docs/configuration.md says what the schema says."""

from __future__ import annotations

from pathlib import Path

import pytest

from kaspan.config.display import write
from kaspan.config.environment import NOT_SETTINGS
from kaspan.config.keys import default, leaves, rule, types, variable

REFERENCE = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")
DEPENDS_ON_THE_USER = {
    *("interceptor.ring_dir", "agent.ring_dirs", "agent.socket", "agent.spool.path", "agent.store.path"),
}


def row_of(key: str) -> list[str]:
    (row,) = [line for line in REFERENCE.splitlines() if line.startswith(f"| `{key}` |")]
    return [cell.strip().strip("`") for cell in row.strip("|").split("|")]


@pytest.mark.parametrize("key", leaves())
def test_reference_has_every_key(key: str) -> None:
    """Each key has one row with its variable, its default, its rule and its meaning."""
    _, named, written, _, meaning = row_of(key)
    assert named == variable(key)
    assert meaning
    if key not in DEPENDS_ON_THE_USER and key != "service":
        assert written == write(key, default(key))


@pytest.mark.parametrize(
    "key", [key for key in leaves() if not rule(types()[key]).startswith(("a list such", "text "))]
)
def test_reference_states_the_rule_that_errors_state(key: str) -> None:
    """The rule in the reference is the one that an error would quote."""
    assert row_of(key)[3] == rule(types()[key])


def test_reference_has_no_other_key() -> None:
    """A key that was removed from the schema is removed from the reference."""
    rows = [
        line.split("`")[1] for line in REFERENCE.splitlines() if line.startswith("| `") and "KASPAN_" in line
    ]
    assert set(rows) - NOT_SETTINGS == set(leaves())
