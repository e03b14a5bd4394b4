"""Read YAML text into nodes, each with its place: file and line, variable, or command line.

The text is read event by event, not by yaml.load. So every error has its line, a key that is set twice is an
error, and a few bytes cannot become gigabytes: aliases, tags and deep nesting are refused where they appear.
A scalar stays text here; `check` reads it by the type of its key.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kaspan.config.display import mask_name
from kaspan.config.errors import ConfigError, Errors, printable, shorten
from kaspan.wire import MAX_SETTINGS_BYTES

if TYPE_CHECKING:
    import yaml

MAX_DEPTH = 16

Locate = Callable[[int], str]
"""Maps a 1-based line number to the start of an error line, such as `kaspan.yaml:7`."""


class Scalar(msgspec.Struct, frozen=True):
    """One value. Styles: `quoted`; `word`, text without quotes; `plain`, a number, boolean or null without
    quotes, at least to some YAML readers; `raw`, the text of a variable or an argument, where quotes say
    nothing.
    """

    text: str
    style: Literal["quoted", "word", "plain", "raw"]
    where: str


class Items(msgspec.Struct, frozen=True):
    """A list."""

    items: list[Node]
    where: str


class Map(msgspec.Struct, frozen=True):
    """A map; the `where` of each value is the line of its key."""

    entries: dict[str, Node]
    where: str


Node = Scalar | Items | Map
NULLS = ("", "~", "null", "Null", "NULL")


def read_file(path: str, described_as: str, errors: Errors, data: bytes | None = None) -> Node:
    """Read one YAML file; `data` holds its bytes if they were read before.

    `described_as` says where the path comes from, for messages. Blocks for the file system only: a pipe is
    refused. Keys that are set twice are added to `errors`; ConfigError if the text cannot be read at all.
    """
    shown = printable(path)
    try:
        text = _decode(_read_bytes(path, shown) if data is None else data, shown)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError([f"{shown}: cannot be read: {error.strerror}; check {described_as}"]) from error
    except ValueError as error:
        raise ConfigError([f"{shown}: cannot be a file's name: {error}; check {described_as}"]) from error
    return parse(text, lambda line: f"{shown}:{line}", errors)


def _read_bytes(path: str, shown: str) -> bytes:
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigError([f"{shown}: is a device or a pipe; the rule is a regular file with YAML text"])
        data = file.read(MAX_SETTINGS_BYTES + 1)
    if len(data) > MAX_SETTINGS_BYTES:
        raise ConfigError([f"{shown}: is longer than {MAX_SETTINGS_BYTES} bytes; a settings file may not be"])
    return data


def _open_at_once(path: str, flags: int) -> int:
    # Without O_NONBLOCK, to open a pipe would block the application until another process writes to it.
    return os.open(path, flags | os.O_NONBLOCK)


def _decode(data: bytes, shown: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = data[error.start]
        raise ConfigError(
            [f"{shown}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"]
        ) from None


def parse(text: str, locate: Locate, errors: Errors, key: str = "") -> Node:
    """Read one YAML document: a whole file, or the value of the dotted `key`. An empty document is null.

    Keys that are set twice are added to `errors`; ConfigError for everything else that is not allowed.
    """
    import yaml

    unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if unprintable:
        line = text.count("\n", 0, unprintable.start()) + 1
        raise ConfigError([f"{locate(line)}: the character {unprintable[0]!a} is not allowed in YAML"])
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Document(yaml.parse(text, Loader=loader), locate, errors).read(key)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # PyYAML's parser in Python quotes the handle of a tag, and a password may look like a tag.
        problem = (error.problem or "").partition("tag handle")
        said = " ".join(filter(None, (error.context, "".join(problem[:2]))))
        column = f" (column {mark.column + 1})" if mark else ""
        raise ConfigError([f"{locate(mark.line + 1 if mark else 1)}: not YAML: {said}{column}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{locate(1)}: not YAML: {shorten(str(error))}"]) from None


class _Document:
    """Makes the nodes of one document from the events of its text."""

    def __init__(self, events: Iterator[yaml.Event], locate: Locate, errors: Errors) -> None:
        import yaml

        self._yaml = yaml
        self._events = events
        self._locate = locate
        self._errors = errors
        self._resolver: Any = yaml.SafeLoader("")

    def read(self, key: str) -> Node:
        yaml = self._yaml
        root: Node = Scalar("", "plain", self._locate(1))
        documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._refused(event, "a second document starts here; the rule is one in a file")
            elif isinstance(event, yaml.NodeEvent):
                root = self._node(event, 0, None, key)
        return root

    def _node(self, event: Any, depth: int, where: str | None, path: str) -> Node:
        yaml = self._yaml
        where = where or self._where(event)
        if isinstance(event, yaml.AliasEvent):
            # Aliases and tags are not shown: each may be a password without its quotes.
            raise self._refused(
                event,
                "a value that begins with * is an alias in YAML, not allowed here; put it in quotes",
            )
        if event.tag is not None:
            raise self._refused(
                event, "a value that begins with ! is a tag in YAML, not allowed here; put it in quotes"
            )
        if depth > MAX_DEPTH:
            raise self._refused(event, f"nested deeper than {MAX_DEPTH} levels, which no setting needs")
        if isinstance(event, yaml.MappingStartEvent):
            return self._map(depth, where, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._items(depth, where, path)
        return Scalar(event.value, self._style(event), where)

    def _items(self, depth: int, where: str, path: str) -> Items:
        items = []
        while not isinstance(event := next(self._events), self._yaml.SequenceEndEvent):
            items.append(self._node(event, depth + 1, None, path))
        return Items(items, where)

    def _map(self, depth: int, where: str, path: str) -> Map:
        entries: dict[str, Node] = {}
        while not isinstance(event := next(self._events), self._yaml.MappingEndEvent):
            key = self._node(event, depth + 1, None, path)
            if not isinstance(key, Scalar):
                raise self._refused(event, "a list or a map cannot be a key; the rule is a name")
            below = f"{path}.{key.text}" if path else key.text
            value = self._node(next(self._events), depth + 1, key.where, below)
            if key.text in entries:
                first = entries[key.text].where
                said = f"{shorten(mask_name(key.text))} is set a second time, after {first}; remove one"
                self._errors.add(key.where, said, below)
            else:
                entries[key.text] = value
        return Map(entries, where)

    def _style(self, event: Any) -> Literal["quoted", "word", "plain"]:
        if not event.implicit[0]:
            return "quoted"
        tag = self._resolver.resolve(self._yaml.ScalarNode, event.value, event.implicit)
        return "plain" if tag.rpartition(":")[2] in ("null", "bool", "int", "float") else "word"

    def _where(self, event: Any) -> str:
        return self._locate(event.start_mark.line + 1)

    def _refused(self, event: Any, why: str) -> ConfigError:
        return ConfigError([f"{self._where(event)}: {why}"])
