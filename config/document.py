"""Read YAML text into nodes that know where they stand.

The text is read event by event and not by yaml.load, since only so does every error have its line, is a
key given twice an error, and can a file of a few bytes not unfold into gigabytes: aliases, tags and deep
nesting are refused where they appear. A scalar stays text here; what it means is up to the key's type.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kaspan.config.display import mask_name
from kaspan.config.errors import ConfigError, Errors, printable, shorten

if TYPE_CHECKING:
    import yaml

MAX_FILE_BYTES = 1024 * 1024
MAX_DEPTH = 16

Locate = Callable[[int], str]
"""From a line's number, the first being 1, to what an error line starts with."""


class Scalar(msgspec.Struct, frozen=True):
    """One value. Styles: `quoted`; `word`, unquoted and text to any YAML reader; `plain`, unquoted and a
    number, boolean or null to some; `raw`, a variable's or argument's text, which has no quotes to go by.
    """

    text: str
    style: Literal["quoted", "word", "plain", "raw"]
    where: str


class Items(msgspec.Struct, frozen=True):
    """A list."""

    items: list[Node]
    where: str


class Map(msgspec.Struct, frozen=True):
    """A map; each value's `where` is its key's, the line that a reader looks for."""

    entries: dict[str, Node]
    where: str


Node = Scalar | Items | Map
NULLS = ("", "~", "null", "Null", "NULL")


def read_file(path: str, named_by: str, errors: Errors, data: bytes | None = None) -> Node:
    """Read one YAML file, whose bytes are `data` if they were read before.

    `named_by` says where the path came from. Blocks for the file system only: a pipe is refused rather
    than waited for. Keys given twice are added to `errors`; raises ConfigError for anything that
    leaves no document to look at.
    """
    shown = printable(path)
    try:
        text = _decode(_read_bytes(path, shown) if data is None else data, shown)
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError([f"{shown}: cannot be read: {error.strerror}; check {named_by}"]) from error
    except ValueError as error:
        raise ConfigError([f"{shown}: cannot be a file's name: {error}; check {named_by}"]) from error
    return parse(text, lambda line: f"{shown}:{line}", errors)


def _read_bytes(path: str, shown: str) -> bytes:
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigError([f"{shown}: is a device or a pipe; the rule is a regular file with YAML text"])
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([f"{shown}: is longer than {MAX_FILE_BYTES} bytes; no file of settings is"])
    return data


def _open_at_once(path: str, flags: int) -> int:
    # Opening a pipe without O_NONBLOCK would hang the application until somebody writes to it.
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
    """Read one YAML document, the value of a dotted key or a whole file; an empty one is a null.

    Keys given twice are added to `errors`; raises ConfigError for everything else that is not allowed.
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
        # PyYAML's own parser, unlike libyaml, quotes the handle of a tag, and a password may look like one.
        problem = (error.problem or "").partition("tag handle")
        said = " ".join(filter(None, (error.context, "".join(problem[:2]))))
        column = f" (column {mark.column + 1})" if mark else ""
        raise ConfigError([f"{locate(mark.line + 1 if mark else 1)}: not YAML: {said}{column}"]) from None
    except yaml.YAMLError as error:
        raise ConfigError([f"{locate(1)}: not YAML: {shorten(str(error))}"]) from None


class _Document:
    """The nodes of one document, made from the events of its text."""

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
            # Neither this nor a tag is shown: it may be a password that wants quotes.
            raise self._refused(
                event, "what begins with * is an alias of YAML; write the value out, or in quotes"
            )
        if event.tag is not None:
            raise self._refused(
                event, "what begins with ! is a tag of YAML; leave it out, or put all in quotes"
            )
        if depth > MAX_DEPTH:
            raise self._refused(event, f"nested deeper than {MAX_DEPTH} levels; no setting is")
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
                raise self._refused(event, "a list or map stands where a key is expected; the rule is a name")
            below = f"{path}.{key.text}" if path else key.text
            value = self._node(next(self._events), depth + 1, key.where, below)
            if key.text in entries:
                first = entries[key.text].where
                said = f"{shorten(mask_name(key.text))} is given a second time, after {first}; keep one"
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
