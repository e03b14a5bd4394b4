"""What is written for people, in every Markdown file of the checkout."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ABOUT_CODE = [ROOT / "CONTRIBUTING.md", ROOT / "RATIONALE.md", ROOT / "docs" / "architecture.md"]
"""Documents that name the files of the checkout."""
MADE = ("bench/results/",)
"""Folders that the commands in those documents make."""
NOT_KEPT = ("build", "dist", "results", "target", "__pycache__")
SUFFIXES = (".py", ".pyx", ".pxi", ".md", ".cfg", ".toml", ".yaml", ".sh")


def anchors(path: Path) -> set[str]:
    """Return the names by which the headings of a file can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_document_has_no_marks_of_a_merge(path: Path) -> None:
    """The text has no markers of a merge conflict."""
    assert re.findall(r"^(?:<{7}|={7}|>{7})(?: .*)?$", path.read_text(encoding="utf-8"), re.M) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_links_of_document_lead_somewhere(path: Path) -> None:
    """Each relative link names a file of the checkout, and a heading that is in it."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert broken == []


@cache
def checkout() -> set[str]:
    """Return every file and folder (with `/` at the end) of the checkout, and nothing that commands make."""
    names: set[str] = set()
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name[0] != "." and name not in NOT_KEPT]
        here = Path(folder).relative_to(ROOT)
        names |= {*(f"{here / name}/" for name in folders), *(str(here / name) for name in files)}
    return names


def paths_in(text: str) -> Iterator[str]:
    """Yield what a document names as a file or folder of the checkout; NAME in it is a place for a name."""
    folders = {name for name in checkout() if name.count("/") == 1 and name.endswith("/")}
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for token in re.findall(r"`([^`\n]+)`|(?<![\w/.(])([\w/.-]+\.pyx?)\b", text):
        for word in "".join(token).split():
            path = word.partition("::")[0]
            is_path = any(path.startswith(folder) for folder in folders) or path.endswith(SUFFIXES)
            if (
                is_path
                and re.fullmatch(r"[\w.*/-]+", path)
                and not path.startswith("/")
                and "NAME" not in path
            ):
                yield path


@pytest.mark.parametrize("path", ABOUT_CODE, ids=lambda path: path.name)
def test_documents_name_files_that_exist(path: Path) -> None:
    """Each path is one of the checkout; a name without a folder is the end of one."""
    missing = [
        named
        for named in paths_in(path.read_text(encoding="utf-8"))
        if not named.startswith(MADE)
        and not any(fnmatch(f"/{there}", f"*/{named}") or there == f"{named}/" for there in checkout())
    ]

    assert missing == []


@pytest.mark.parametrize("path", ABOUT_CODE, ids=lambda path: path.name)
def test_documents_name_tests_that_exist(path: Path) -> None:
    """A promise that a test is said to hold is held by one."""
    tests = "\n".join(file.read_text(encoding="utf-8") for file in (ROOT / "tests").rglob("test_*.py"))
    named = re.findall(r"`(?:[\w/.]+::)?(test_\w+)`", path.read_text(encoding="utf-8"))

    assert [name for name in named if f"def {name}(" not in tests] == []


def test_rationale_lists_every_question() -> None:
    """The contents name each heading, in their order."""
    text = (ROOT / "RATIONALE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^ *- \[(.*)\]\(#", text.split("## Contents")[1].split("\n## ")[0], re.M)

    assert listed == re.findall(r"^##+ (.*)$", text, re.M)[1:]
