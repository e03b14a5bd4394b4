"""docs/senders.md says what the schema says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from kaspan.config.display import write
from kaspan.config.keys import fields, rule
from kaspan.config.schema import Sender

DOCS = Path(__file__).parents[4] / "docs"
REFERENCE = (DOCS / "senders.md").read_text("utf-8")
SENDERS = {str(struct.__struct_config__.tag): struct for struct in get_args(Sender)}


def rows_of(type_: str) -> dict[str, list[str]]:
    """The rows of a sender's table, by key."""
    section = REFERENCE.split(f"\n## {type_}\n")[1].split("\n## ")[0]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if line.startswith("| `")
    ]
    return {row[0]: row for row in rows}


@pytest.mark.parametrize("type_", SENDERS)
def test_reference_has_every_key_of_a_sender_and_no_other(type_: str) -> None:
    """With its default and the rule that an error would quote."""
    rows, known = rows_of(type_), fields(SENDERS[type_])
    assert list(rows) == list(known)
    for key, (_, default, said, _) in rows.items():
        field: Any = known[key]
        assert said == rule(field.type), key
        assert default == (
            "not set" if field.default is None else write(f"x.{key}", field.default).strip('"')
        ), key


def test_example_in_the_text_is_the_example() -> None:
    """The code that the documents show is in the example."""
    source = (DOCS / "examples" / "kaspan-file-sender" / "kaspan_file_sender.py").read_text("utf-8")
    code = REFERENCE.split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if line.strip() not in ("", "...")]
    assert lines
    assert all(line in source for line in lines)
