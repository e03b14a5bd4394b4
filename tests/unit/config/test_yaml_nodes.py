"""Files that cannot be read as YAML: each is refused with the line and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.config import ConfigError, Settings, load
from kaspan.config.errors import MAX_ERRORS
from kaspan.config.keys import fields, types
from kaspan.config.schema import Agent

Refusal = Callable[[str | bytes], str]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "kaspan.yaml"


@pytest.fixture
def refusal(path: Path) -> Refusal:
    """Load a file of the given content and return its errors with FILE for the file's name."""

    def load_content(content: str | bytes) -> str:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with pytest.raises(ConfigError) as refused:
            load(str(path), {})
        return str(refused.value).replace(str(path), "FILE")

    return load_content


@pytest.fixture(params=["libyaml", "pure Python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "pure Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    elif not hasattr(yaml, "CSafeLoader"):
        pytest.skip("this PyYAML was built without libyaml")


@pytest.mark.parametrize("content", [b"", b"# nothing yet\n", b"---\n", b"null\n", b"interceptor:\nagent:\n"])
def test_empty_file_is_fine(path: Path, content: bytes) -> None:
    """A file that sets nothing, or sections whose keys are all commented out, gives the defaults."""
    path.write_bytes(content)
    assert load(str(path), {}).settings == Settings()


def test_byte_order_mark_is_ignored(path: Path) -> None:
    """An editor's UTF-8 byte order mark does not become a part of the first key."""
    path.write_bytes(b"\xef\xbb\xbfservice: orders")
    assert load(str(path), {}).settings.service == "orders"


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A missing file is named, and so is what named it."""
    missing = str(tmp_path / "none.yaml")
    with pytest.raises(ConfigError) as refused:
        load(None, {"KASPAN_CONFIG": missing})
    assert str(refused.value) == f"{missing}: cannot be read: No such file or directory; check KASPAN_CONFIG"


def test_directory_is_refused(tmp_path: Path) -> None:
    """A directory is not a file."""
    with pytest.raises(ConfigError, match="cannot be read: Is a directory; check the path"):
        load(str(tmp_path), {})


@contextmanager
def without_privileges() -> Iterator[None]:
    """Become the user nobody for a moment if the tests run as root, who may read every file."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A file whose permissions keep it from us is refused with the system's reason."""
    unreadable = tmp_path / "kaspan.yaml"
    unreadable.touch(mode=0)
    with without_privileges(), pytest.raises(ConfigError, match="cannot be read: Permission denied"):
        load(str(unreadable), {})


def test_pipe_is_refused_at_once(tmp_path: Path) -> None:
    """A named pipe without a writer does not block the application."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="is a device or a pipe; the rule is a regular file"):
        load(str(pipe), {})


def test_impossible_name_is_refused() -> None:
    """A name that no file can have is an error like any other."""
    with pytest.raises(ConfigError, match="cannot be a file's name"):
        load("a\0b", {})


def test_large_file_is_refused(refusal: Refusal) -> None:
    """A file over 1 MiB is not parsed."""
    assert (
        refusal(b"#" * (1024 * 1024 + 1)) == "FILE: is longer than 1048576 bytes; a settings file may not be"
    )


def test_other_encoding_is_refused_with_its_line(refusal: Refusal) -> None:
    """Text that is not UTF-8 is refused with the line of the first wrong byte."""
    assert refusal(b"interceptor:\nservice: caf\xe9") == (
        "FILE:2: byte 0xe9 is not UTF-8; save the file as UTF-8"
    )


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("service: a\n  b: c\n", "FILE:2: not YAML: mapping values are not allowed "),
        ("service: [a\n", "FILE:2: not YAML: while parsing a flow sequence "),
        ("service: 'a\n", "FILE:2: not YAML: while scanning a quoted scalar "),
        ("\nservice: \x1b[31m", "FILE:2: the character '\\x1b' is not allowed in YAML"),
        ("a: b\n---\nc: d\n", "FILE:2: a second document starts here; the rule is one in a file"),
        ("? [a]\n: b\n", "FILE:1: a list or a map cannot be a key; the rule is a name"),
        (
            "agent: &a {}\ninterceptor: *a\n",
            "FILE:2: a value that begins with * is an alias in YAML, not allowed here; put it in quotes",
        ),
        (
            "service: !!str 5",
            "FILE:1: a value that begins with ! is a tag in YAML, not allowed here; put it in quotes",
        ),
        ("service: !!python/name:os.system x", "FILE:1: a value that begins with ! is a tag in YAML"),
        (
            "service: a\nservice: b",
            "FILE:2: service is set a second time, after FILE:1; remove one",
        ),
        ("{a: " * 17, "FILE:1: nested deeper than 16 levels, which no setting needs"),
        ("[" * 1_000_000, "FILE:1: "),
        ("- " * 500_000, "FILE:1: nested deeper than 16 levels, which no setting needs"),
        (
            "a: &a [1,1]\nb: &b [*a,*a]\nc: &c [*b,*b]",
            "FILE:2: a value that begins with * is an alias in YAML",
        ),
        ("- a", "FILE:1: the whole file is a list; the rule is a map with keys among service, interceptor"),
        ("just text", "FILE:1: the whole file is just text; the rule is a map with keys among service"),
    ],
)
def test_what_is_not_plain_yaml_is_refused(refusal: Refusal, content: str, error: str) -> None:
    """Bad syntax and the parts of YAML that settings do without are refused with their line."""
    assert refusal(content).startswith(error)


def test_all_errors_are_shown_at_once(refusal: Refusal) -> None:
    """Each thing to correct has one line, in the file's order."""
    content = "servce: a\ninterceptor:\n  sampling:\n    rate: -0.5\n  ring_bytes: big\nagent: 7\n"
    assert refusal(content).split("\n") == [
        "FILE:1: there is no key servce; did you mean service?",
        "FILE:4: interceptor.sampling.rate is -0.5; the rule is a number from 0 to 1",
        "FILE:5: interceptor.ring_bytes is big; the rule is a whole number from 65536 to 1073741824",
        f"FILE:6: agent is 7; the rule is a map with keys among {', '.join(fields(Agent))}",
    ]


def test_errors_without_end_are_counted(refusal: Refusal) -> None:
    """A file that is something else altogether does not fill the log."""
    lines = refusal("".join(f"k{number}: 1\n" for number in range(50_000))).split("\n")
    assert len(lines) == MAX_ERRORS + 1
    assert lines[-1] == f"and {50_000 - MAX_ERRORS} more like these"


def errors_of(path: Path, content: bytes) -> tuple[str, ...]:
    """Load a file of any content; anything but ConfigError comes through."""
    path.write_bytes(content)
    try:
        load(str(path), {})
    except ConfigError as refused:
        return refused.errors
    return ()


def are_readable(path: Path, errors: tuple[str, ...]) -> bool:
    """Each error is one printable line that begins with the file's name."""
    return all(line.isprintable() and line.startswith((str(path), "and ")) for line in errors)


@settings(deadline=None, max_examples=300)
@given(
    content=st.binary()
    | st.text(st.sampled_from("ab:-? \n\t[]{},&*!|>'\"#%@`~0.5\x85\u2028\ufeff")).map(str.encode)
)
def test_any_bytes_raise_nothing_but_config_errors(path: Path, content: bytes) -> None:
    """Any bytes in the file give settings, or errors of one line each."""
    assert are_readable(path, errors_of(path, content))


NAMES = st.sampled_from(sorted({name for key in types() for name in key.split(".")})) | st.text(max_size=5)
TREES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)


@settings(deadline=None, max_examples=300)
@given(tree=st.dictionaries(NAMES, TREES, max_size=3))
def test_any_yaml_raises_nothing_but_config_errors(path: Path, tree: dict[str, Any]) -> None:
    """Any values of the schema's keys give settings, or errors of one line each."""
    assert are_readable(path, errors_of(path, yaml.safe_dump(tree).encode()))
