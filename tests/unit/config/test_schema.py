"""Everything that the schema allows can be set in every way: these tests are made from the schema."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, reduce
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import msgspec
import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kaspan.config import ConfigError, Loaded, Settings, load
from kaspan.config.keys import (
    default,
    fields,
    is_section,
    leaves,
    types,
    variable,
    without_none,
    without_rules,
)
from kaspan.config.schema import Agent, Store

quick = settings(deadline=None, max_examples=25)
TEXT = st.characters(exclude_categories=["Cs"])


def merged_rules(type_: Any) -> dict[str, Any]:
    rules: dict[str, Any] = {}
    for meta in get_args(type_)[1:] if without_rules(type_) is not type_ else ():
        for name in ("ge", "gt", "le", "pattern", "min_length"):
            if getattr(meta, name) is not None:
                rules[name] = getattr(meta, name)
    return rules


def allowed(type_: Any) -> st.SearchStrategy[Any]:  # noqa: PLR0911 one for each kind of type
    """Every value that a type of the schema allows."""
    if NoneType in get_args(type_):
        return st.none() | allowed(without_none(type_))
    base, rules = without_rules(type_), merged_rules(type_)
    if base is bool:
        return st.booleans()
    if base is int:
        return st.integers(rules["ge"], rules["le"])
    if base is float:
        low, high = rules.get("ge", rules.get("gt")), rules["le"]
        return st.floats(low, high, exclude_min="gt" in rules, allow_nan=False, allow_infinity=False)
    if base is str:
        return (
            st.from_regex(rules["pattern"], alphabet=TEXT)
            if "pattern" in rules
            else st.text(TEXT, min_size=rules.get("min_length", 0))
        )
    if get_origin(base) is Literal:
        return st.sampled_from(get_args(base))
    if get_origin(base) is tuple:
        items = st.lists(allowed(get_args(base)[0]), min_size=rules.get("min_length", 0), max_size=4)
        return items.map(tuple)
    if get_origin(base) is dict:
        return st.dictionaries(*map(allowed, get_args(base)), min_size=rules.get("min_length", 0), max_size=4)
    if is_section(base):
        built = st.builds(base, **{field.name: allowed(field.type) for field in fields(base).values()})
        return built.filter(lambda agent: agent.senders or agent.store) if base is Agent else built
    return st.one_of(*map(allowed, get_args(base)))


@cache
def allowed_at(key: str) -> st.SearchStrategy[Any]:
    """Every value that a key may have; made once, since a strategy costs more than what it draws."""
    values = allowed(without_none(types()[key]))
    return values.filter(len) if key == "agent.senders" else values  # it may be empty only with a store


def at(value: Any, key: str) -> Any:
    return reduce(getattr, key.split("."), value)


def is_absent(key: str) -> bool:
    """Whether a section is absent, with all that is in it, when nothing of it is set."""
    return f"{key}.".startswith("agent.store.")


def nested(key: str, value: Any) -> Any:
    return reduce(lambda inner, name: {name: inner}, reversed(key.split(".")), value)


def plain(value: Any) -> Any:
    """What a file or variable says: a key that is not set is not in it."""

    def without_none(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: without_none(item) for key, item in node.items() if item is not None}
        return [without_none(item) for item in node] if isinstance(node, list | tuple) else node

    return without_none(msgspec.to_builtins(value))


def as_variable(value: Any) -> str:
    said = plain(value)
    if isinstance(said, list | dict):
        return yaml.safe_dump(said, default_flow_style=True)
    return said if isinstance(said, str) else str(said)


@pytest.fixture(scope="module")
def yaml_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "kaspan.yaml"


def load_yaml(path: Path, tree: Any, environ: Mapping[str, str] | None = None) -> Loaded:
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return load(str(path), environ or {})


@pytest.mark.parametrize(
    "key", [key for key, type_ in types().items() if is_section(type_) and not is_absent(key)]
)
def test_section_that_is_not_set_is_as_when_it_is_empty(key: str) -> None:
    """A section's default is what its own keys' defaults make of it."""
    assert at(Settings(), key) == types()[key]()


@quick
@given(wanted=allowed(Settings))
def test_file_gives_back_settings_written_by_a_yaml_library(yaml_file: Path, wanted: Settings) -> None:
    """Any settings that the schema allows, dumped as YAML, load as the same settings."""
    assert load_yaml(yaml_file, plain(wanted)).settings == wanted


@pytest.mark.parametrize("key", leaves())
@quick
@given(data=st.data())
def test_environment_overrides_file(yaml_file: Path, key: str, data: st.DataObject) -> None:
    """Every key's variable wins over the file, and is named as the value's origin."""
    said = allowed_at(key)
    in_file, in_variable = data.draw(said), data.draw(said)
    text = as_variable(in_variable)
    assume(text or key == "interceptor.remote_service")
    loaded = load_yaml(yaml_file, nested(key, plain(in_file)), {variable(key): text})
    assert at(loaded.settings, key) == in_variable
    assert loaded.origins[key] == f"environment {variable(key)}"


@pytest.mark.parametrize("key", leaves())
@quick
@given(data=st.data())
def test_command_line_overrides_environment(key: str, data: st.DataObject) -> None:
    """Every key's value from the command line wins over its variable, as text or as a value."""
    said = allowed_at(key)
    in_variable, argument = data.draw(said), data.draw(said)
    environ = {variable(key): as_variable(in_variable)}
    for given_as in (argument, as_variable(argument)):
        loaded = load(None, environ, {key: given_as})
        assert at(loaded.settings, key) == argument
        assert loaded.origins[key] == "command line"


@pytest.mark.parametrize("key", leaves())
def test_every_key_refuses_a_wrong_type(yaml_file: Path, key: str) -> None:
    """A map in the place of a value is an error that names file, line and key, for every key."""
    with pytest.raises(ConfigError) as refused:
        load_yaml(yaml_file, nested(key, {"a": 1}))
    line = key.count(".") + 1
    assert str(refused.value).startswith(f"{yaml_file}:{line}: {key} is a map; the rule is ")


def test_defaults_follow_the_rules() -> None:
    """Every default that does not depend on the machine would be accepted if it were written down."""
    arguments = {key: default(key) for key in leaves() if not is_absent(key)}
    assert load(None, {}, arguments).settings == Settings()
    arguments = {key: default(key) for key in leaves() if is_absent(key)}
    assert load(None, {}, arguments).settings.agent.store == Store()
