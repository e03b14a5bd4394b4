"""What README prints can be copied."""

from __future__ import annotations

import re
from pathlib import Path

from kaspan.config import load
from support.programs import SEND, ProgramRunner
from support.ring_reader import RingReader

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def settings_file(directory: Path, text: str) -> Path:
    path = directory / "kaspan.yaml"
    path.write_text(text)
    return path


def test_settings_of_readme_are_right_for_both_sides(tmp_path: Path) -> None:
    """The YAML file is read without an error or a warning, also with what is commented out in it."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, re.M | re.S)
    everything = re.sub(r"^( +)# (?=\w+: )", r"\1", block, flags=re.M)
    assert everything != block

    for text in (block, everything):
        assert load(str(settings_file(tmp_path, text)), {}).warnings == ()


def test_settings_of_readme_warn_of_nothing_in_an_application(
    tmp_path: Path, programs: ProgramRunner
) -> None:
    """An application that is started with that file is traced without a word."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", README, re.M | re.S)
    path = settings_file(tmp_path, block.replace("rate: 0.1", "rate: 1.0"))
    done = programs.traced(SEND, KASPAN_CONFIG=str(path))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (span,) = RingReader(programs.ring_dir).take()
    assert span.name == "send orders"
