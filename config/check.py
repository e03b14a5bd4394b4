"""Check nodes against the schema: make typed values of them, and one error for each mistake."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Protocol, Union, get_args, get_origin

import msgspec

from kaspan.config.display import MASK, is_secret, mask, mask_misplaced, mask_name
from kaspan.config.errors import ConfigError, Errors, shorten, suggest
from kaspan.config.keys import (
    Section,
    fields,
    is_section,
    leaves,
    rule,
    type_of,
    without_none,
    without_rules,
)
from kaspan.config.schema import Sender, Settings
from kaspan.config.yaml_nodes import NULLS, Items, Map, Node, Scalar, parse

INVALID: Any = object()
"""The result for a value that was refused; the reason is in the errors."""

BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class Found(msgspec.Struct, frozen=True):
    """The value of a key, and the place where it was set."""

    value: Any
    where: str


class SenderTypes(Protocol):
    """The senders of other packages: further values of `type` in agent.senders."""

    def names(self) -> Iterable[str]:
        """Return all their names."""

    def settings(self, name: str) -> Section:
        """Return the struct of a sender's settings. Raises ValueError, which says why it cannot be loaded."""


class Checker:
    """Checks the sources one after the other; a later value of the same key replaces an earlier one.

    `found` maps each dotted key that was set to its last valid value, and each section that is there to {}.
    Without `senders`, the settings of senders of other packages are not checked. Mistakes go to `errors`;
    nothing is raised.
    """

    def __init__(self, errors: Errors, senders: SenderTypes | None = None) -> None:
        self.found: dict[str, Found] = {}
        self._errors = errors
        self._senders = senders

    def set(self, key: str, node: Node) -> None:
        """Check the node of one dotted key; "" means the whole file."""
        try:
            self._set(key, node)
        except ConfigError as error:
            # A variable whose YAML text cannot be read: there is nothing to check.
            self._errors.extend(error, key)

    def _set(self, key: str, node: Node) -> None:
        type_ = type_of(key) if key else Settings
        if is_section(type_):
            self._section(type_, key, node)
        elif (value := self._value(type_, key, node)) is not INVALID:
            self.found[key] = Found(value, node.where)

    def _section(self, section: Section, key: str, node: Node) -> None:
        node = self._parsed(key, node)
        if isinstance(node, Scalar) and node.style == "plain" and node.text in NULLS:
            if not node.text:  # all keys of the section are commented out; `null` is a section that is absent
                self.found[key] = Found({}, node.where)
            return
        if not isinstance(node, Map):
            self._refuse(node, key or "the whole file", f"a map with keys among {', '.join(fields(section))}")
            return
        self.found[key] = Found({}, node.where)
        prefix = f"{key}." if key else ""
        for name, child in node.entries.items():
            if name in fields(section):
                self._set(prefix + name, child)
            else:
                self._unknown(child.where, prefix, name, section)

    def _value(self, type_: Any, key: str, node: Node) -> Any:
        type_, base = without_none(type_), without_rules(type_)
        if get_origin(base) is tuple:
            return self._tuple(type_, key, self._parsed(key, node))
        if get_origin(base) is dict:
            return self._map(type_, key, self._parsed(key, node))
        structs = get_args(base) if get_origin(base) in (UnionType, Union) else (base,)
        if all(map(is_section, structs)):
            return self._struct(structs, key, self._parsed(key, node))
        if isinstance(node, Scalar):
            try:
                return msgspec.convert(_python_value(base, node), type_)
            except msgspec.ValidationError:
                pass
        return self._refuse(node, key, rule(type_) + _advice(base, node))

    def _tuple(self, type_: Any, key: str, node: Node) -> Any:
        item_type = get_args(without_rules(type_))[0]
        if not isinstance(node, Items):
            return self._refuse(node, key, rule(type_))
        values = tuple(self._value(item_type, f"{key}[{i}]", item) for i, item in enumerate(node.items))
        return self._checked_whole(values, values, type_, key, node)

    def _map(self, type_: Any, key: str, node: Node) -> Any:
        """Check a map whose keys the user chooses."""
        value_type = get_args(without_rules(type_))[1]
        if not isinstance(node, Map):
            return self._refuse(node, key, rule(type_))
        values = {
            name: self._value(value_type, f"{key}.{mask_name(name)}", child)
            for name, child in node.entries.items()
        }
        return self._checked_whole(values, values.values(), type_, key, node)

    def _checked_whole(self, value: Any, parts: Iterable[Any], type_: Any, key: str, node: Node) -> Any:
        """Check the rules for a list or map as a whole, once all its parts are valid."""
        if any(part is INVALID for part in parts):
            return INVALID
        whole: Any = dict[str, Any] if isinstance(value, dict) else tuple[Any, ...]
        for meta in get_args(type_)[1:] if without_rules(type_) is not type_ else ():
            whole = Annotated[whole, meta]
        try:
            return msgspec.convert(value, whole)
        except msgspec.ValidationError:
            return self._refuse(node, key, rule(type_))

    def _struct(self, structs: tuple[Section, ...], key: str, node: Node) -> Any:
        """Check a map that is one of `structs`; its `type` says which."""
        if not isinstance(node, Map):
            return self._refuse(node, key, "a map of keys")
        tag_field = structs[0].__struct_config__.tag_field
        if tag_field is None:
            return self._fields(structs[0], key, node.entries, node)
        by_tag = {struct.__struct_config__.tag: struct for struct in structs}
        entries = dict(node.entries)
        tag = entries.pop(tag_field, None)
        struct = by_tag.get(tag.text) if isinstance(tag, Scalar) else None
        if struct is not None:
            return self._fields(struct, key, entries, node)
        names = list(map(str, by_tag))
        if structs == get_args(Sender):
            if isinstance(tag, Scalar) and self._is_sender_of_other_package(tag.text):
                return self._other_sender(tag, key, entries, node)
            names += self._senders.names() if self._senders else ()
        wanted = f"one of {', '.join(names)}"
        return self._refuse(tag or node, f"{key}.{tag_field}", wanted, missing=tag is None)

    def _is_sender_of_other_package(self, name: str) -> bool:
        return bool(name) and (self._senders is None or name in self._senders.names())

    def _other_sender(self, tag: Scalar, key: str, entries: Mapping[str, Node], node: Map) -> Any:
        """Check the settings of another package's sender: a struct with the sender's name as its tag."""
        if self._senders is None:
            return _tagged(msgspec.Struct, tag.text)()
        try:
            settings = _tagged(self._senders.settings(tag.text), tag.text)
        except (TypeError, ValueError) as error:
            self._errors.add(tag.where, f"{key}.type is {shorten(tag.text)}; {error}", key)
            return INVALID
        return self._fields(settings, key, entries, node)

    def _fields(self, struct: Section, key: str, entries: Mapping[str, Node], node: Map) -> Any:
        values: dict[str, Any] = {}
        known = fields(struct)
        for name, child in entries.items():
            if name in known:
                values[known[name].name] = self._value(known[name].type, f"{key}.{name}", child)
            elif self._unknown(child.where, f"{key}.", name, struct):
                values[name] = INVALID
        for name, field in known.items():
            if field.required and field.name not in values:
                values[field.name] = self._refuse(node, f"{key}.{name}", rule(field.type), missing=True)
        return INVALID if any(value is INVALID for value in values.values()) else struct(**values)

    def _parsed(self, key: str, node: Node) -> Node:
        """Parse the text of a variable, in which a list or a map is written as YAML."""
        if isinstance(node, Scalar) and node.style == "raw":
            return parse(node.text, lambda _line: node.where, self._errors, key)
        return node

    def _unknown(self, where: str, prefix: str, name: str, section: Section) -> bool:
        """Add an unknown key to the errors; returns whether it is an error and not a warning."""
        shown, hint = mask_name(name), ""
        if shown != name:
            hint = "write KEY: VALUE, with a space after the colon"
        elif not self._errors.full:
            elsewhere = [key for key in leaves() if key.endswith(f".{name}")]
            hint = f"did you mean {elsewhere[0]}?" if elsewhere else suggest(name, fields(section))
        message = f"there is no key {prefix}{shorten(shown)}; {hint}"
        return self._errors.add(where, message, prefix, is_unknown=True)

    def _refuse(self, node: Node, key: str, wanted: str, missing: bool = False) -> Any:
        problem = "is missing" if missing else f"is {_shown(key, node)}"
        self._errors.add(node.where, f"{key} {problem}; the rule is {wanted}", key)
        return INVALID


# Cached: settings that are read again compare equal only if their class is the same.
@cache
def _tagged(settings: Section, name: str) -> Section:
    tagged: Section = msgspec.defstruct(
        settings.__name__, [], bases=(settings,), tag_field="type", tag=name, frozen=True, kw_only=True
    )
    return tagged


def _python_value(base: Any, node: Scalar) -> Any:
    """Read a scalar by the type of its key; None, which no key allows, if that fails."""
    raw = node.style == "raw"
    if not _is_utf8(node.text):
        return None
    if base is str:
        return node.text if node.style != "plain" else None
    text = node.text.strip() if raw else node.text
    if get_origin(base) is Literal:
        # Words match in any case: other programs write INFO for info, or ssl for SSL.
        return next((word for word in get_args(base) if word.lower() == text.lower()), None)
    if node.style == "quoted":
        return None
    if base is bool:
        return BOOLEANS.get(text.lower(), {"1": True, "0": False}.get(text) if raw else None)
    return _number(text, float if base is float else int)


def _number(text: str, kind: type[int] | type[float]) -> int | float | None:
    try:
        number = kind(text)
    except ValueError:
        return None
    # Python reads the digits of every script; other YAML readers take only ASCII for a number.
    return number if text.isascii() and math.isfinite(number) else None


def _is_utf8(text: str) -> bool:
    """Whether text can be encoded; a variable with bytes that are not UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(key: str, node: Node) -> str:
    if isinstance(node, Items):
        return "a list" if node.items else "an empty list"
    if isinstance(node, Map):
        return "a map"
    if is_secret(key):
        return MASK
    if not node.text:
        return "empty"
    shown = shorten(mask_misplaced(mask(key, node.text)))
    return f'"{shown}"' if node.style == "quoted" and node.text.isprintable() else shown


def _advice(base: Any, node: Node) -> str:
    if not isinstance(node, Scalar):
        return ""
    if node.style == "plain" and node.text in NULLS:
        return "; remove the key to use its default"
    if base is str and node.style == "plain":
        return "; put it in quotes"
    unquoted = msgspec.structs.replace(node, style="plain")
    if node.style == "quoted" and base is not str and _python_value(base, unquoted) is not None:
        return "; remove the quotes"
    return ""
