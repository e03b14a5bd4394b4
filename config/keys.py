"""The schema as a flat list: every dotted key and its type.

A section is a map whose keys are overridden one by one; every other key, lists included, is a leaf and is
overridden whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from kaspan.config.schema import Settings

VARIABLE_PREFIX = "KASPAN_"
Section = type[msgspec.Struct]


@cache
def fields(section: Section) -> dict[str, FieldInfo]:
    """Return the keys of a section, each with its type, its default and the name of its field."""
    return {field.encode_name: field for field in msgspec.structs.fields(section)}


def is_section(type_: Any) -> bool:
    """Whether a type is a section: a map with keys of its own."""
    return isinstance(type_, type) and issubclass(type_, msgspec.Struct)


def key_type(type_: Any) -> Any:
    """Return the type of a key; a section that may be absent (`Section | None`) is the section."""
    section = without_none(type_)
    return section if is_section(section) else type_


def walk(section: Section = Settings, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key below a section and its type, sections before their own keys."""
    for name, field in fields(section).items():
        type_ = key_type(field.type)
        yield prefix + name, type_
        if is_section(type_):
            yield from walk(type_, f"{prefix}{name}.")


@cache
def type_of(key: str) -> Any:
    """Return the type of one dotted key; None if the schema does not have it.

    Reads only the sections that contain the key: an application sets a few keys, and to read all sections
    takes milliseconds.
    """
    type_: Any = Settings
    for name in key.split("."):
        field = fields(type_).get(name) if is_section(type_) else None
        if field is None:
            return None
        type_ = key_type(field.type)
    return type_


@cache
def types() -> dict[str, Any]:
    """Return every dotted key of the settings, sections included, and its type."""
    return dict(walk())


@cache
def leaves() -> tuple[str, ...]:
    """Return the dotted keys that hold a value, in the schema's order."""
    return tuple(key for key, type_ in types().items() if not is_section(type_))


def value_at(settings: Any, key: str) -> Any:
    """Return the value of a dotted key; None for a key of a section that is absent."""
    for name in key.split("."):
        settings = None if settings is None else getattr(settings, name)
    return settings


def default(key: str) -> Any:
    """Return the default of a dotted key; in a section that is absent by default, the one it has there."""
    value: Any = Settings()
    path = ""
    for name in key.split("."):
        path = f"{path}.{name}" if path else name
        value = getattr(value, name)
        if value is None and is_section(section := type_of(path)):
            value = section()
    return value


def variable(key: str) -> str:
    """Name the environment variable of a dotted key: `a.b` is KASPAN_A__B."""
    return VARIABLE_PREFIX + key.replace(".", "__").upper()


def key_of(name: str) -> str | None:
    """Name the dotted key that an environment variable sets; None if it sets none."""
    key = name.removeprefix(VARIABLE_PREFIX).lower().replace("__", ".")
    return key if variable(key) == name and type_of(key) is not None else None


def without_none(type_: Any) -> Any:
    """Return the type of a key's value, without None, which only marks a key that is not set."""
    options = get_args(type_)
    if get_origin(type_) not in (UnionType, Union) or NoneType not in options:
        return type_
    return Union[tuple(option for option in options if option is not NoneType)]  # noqa: UP007 (made at run time)


def without_rules(type_: Any) -> Any:
    """Return the type of a value that is set, without its rules."""
    type_ = without_none(type_)
    return get_args(type_)[0] if get_origin(type_) is Annotated else type_


def is_settable(type_: Any) -> bool:
    """Whether YAML can hold a value of a type: text, numbers, booleans, words, lists or maps of them."""
    base = without_rules(type_)
    if get_origin(base) is Literal:
        return all(isinstance(word, str) for word in get_args(base))
    if get_origin(base) is tuple:
        return get_args(base)[1:] == (...,) and is_settable(get_args(base)[0])
    if get_origin(base) is dict:
        return get_args(base)[0] is str and is_settable(get_args(base)[1])
    return base in (bool, int, float, str) or (
        is_section(base) and all(is_settable(field.type) for field in fields(base).values())
    )


def rule(type_: Any) -> str:
    """Say in words which values a type allows, for messages: `a number from 0 to 1`."""
    base, type_ = without_rules(type_), without_none(type_)
    metas = (
        [meta for meta in get_args(type_)[1:] if isinstance(meta, msgspec.Meta)] if base is not type_ else []
    )
    for meta in metas:
        if meta.description:
            return meta.description
    if get_origin(base) is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    if get_origin(base) is tuple:
        return f"a list such as [a, b], each {rule(get_args(base)[0])}"
    if get_origin(base) is dict:
        return f"a map such as {{a: b}}, each value {rule(get_args(base)[1])}"
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return simple.get(base, "a map of keys") + "".join(map(_bounds, metas))


def _bounds(meta: msgspec.Meta) -> str:
    if meta.ge is not None and meta.le is not None:
        return f" from {meta.ge} to {meta.le}"
    return "" if meta.ge is None else f" of at least {meta.ge}"
