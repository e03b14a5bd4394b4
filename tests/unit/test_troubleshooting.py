"""docs/troubleshooting.md quotes messages that the commands print."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
TABLES = ("| the doctor says |", "| `kaspan agent` says |")
MIN_WORDS = 3


def quoted() -> list[str]:
    """The messages in the first column of both tables."""
    found = []
    for head in TABLES:
        rows = TEXT.split(head)[1].split("\n\n")[0].splitlines()[2:]
        found += [row.split("|")[1].strip().strip("`") for row in rows]
    return found


@cache
def printed() -> tuple[str, ...]:
    """The constant parts of all texts in the code that have a few words."""
    texts = [
        node.value.replace("`", "").strip()
        for folder in ("agent", "cli", "config", "interceptor")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return tuple(text for text in texts if len(text.split()) >= MIN_WORDS)


def test_tables_quote_messages() -> None:
    """Both tables are found."""
    assert len(quoted()) >= 10


@pytest.mark.parametrize("message", quoted())
def test_quoted_message_is_one_that_is_printed(message: str) -> None:
    """Between values and places that are left out it has words of a text in the code."""
    parts = [part.strip(" :;()") for part in message.split("...")]

    assert any(
        text in part or (len(part.split()) >= MIN_WORDS and part in text)
        for part in parts
        for text in printed()
    )
