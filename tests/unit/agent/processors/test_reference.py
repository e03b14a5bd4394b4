"""docs/processors.md says what the schema says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from kaspan.agent.processors.build import build
from kaspan.config import load
from kaspan.config.display import write
from kaspan.config.keys import fields
from kaspan.config.schema import Processor

REFERENCE = (Path(__file__).parents[4] / "docs" / "processors.md").read_text(encoding="utf-8")
TYPES = {processor.__struct_config__.tag: processor for processor in get_args(Processor)}


def test_reference_has_a_section_for_each_type() -> None:
    """Every type of processor has a section of its name."""
    assert set(TYPES) <= set(re.findall(r"^## (\w+)$", REFERENCE, re.MULTILINE))


@pytest.mark.parametrize("type_", TYPES)
def test_reference_has_every_key_with_its_default(type_: str) -> None:
    """Each key of a processor has one row in its section, with the default that it has."""
    section = REFERENCE.partition(f"## {type_}\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.MULTILINE))
    expected = {}
    for name, field in fields(TYPES[type_]).items():
        default = "required" if field.required else write(name, field.default)
        expected[name] = default if field.required else f"`{default}`" if default else "not set"
    assert rows == expected


def test_example_of_the_reference_works(tmp_path: Path) -> None:
    """The settings shown at the top can be used as they are."""
    path = tmp_path / "kaspan.yaml"
    path.write_text(REFERENCE.partition("```yaml\n")[2].partition("```")[0])
    processors = load(str(path), {}).settings.agent.processors
    build(processors, {"HOSTNAME": "h"})
    assert len(processors) == 5
