"""Merge the sources of settings: defaults, file, OpenTelemetry's variables, kaspan's variables, arguments.

Every source becomes `yaml_nodes` first and `check` turns nodes into values, so `load` goes through `check`
once for each source, and `check` goes back to `yaml_nodes` for a variable that holds a list or a map as
YAML text.

The way of one key, such as interceptor.sampling.rate: text with its line (yaml_nodes), a value of the type in
schema/interceptor.py (check), `Settings` (here), then `Tracing`, which passes it to its `Sampler`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from kaspan.config.check import Checker, Found, SenderTypes
from kaspan.config.environment import CONFIG_VARIABLE, from_kaspan, from_opentelemetry
from kaspan.config.errors import ConfigError, Errors, Side, suggest
from kaspan.config.keys import Section, fields, is_section, key_type, leaves, rule, type_of, types
from kaspan.config.schema import Settings
from kaspan.config.yaml_nodes import Items, Map, Node, Scalar, read_file

COMMAND_LINE = "command line"
DEFAULT = "default"
_SENDERS = "agent.senders"
_STORE = "agent.store"


class Loaded:
    """The settings in effect, where each value came from, and one warning for each thing that was ignored.

    `foreign_warnings` are those of `warnings` about variables that may belong to another program.
    """

    def __init__(self, settings: Settings, found: Mapping[str, Found], errors: Errors) -> None:
        self.settings = settings
        self.warnings = errors.warnings
        self.foreign_warnings = errors.foreign_warnings
        self._found = found

    @cached_property
    def origins(self) -> dict[str, str]:
        """The origin of every setting's value, by dotted key: `default`, `FILE:LINE`, `environment
        VARIABLE` or `command line`.
        """
        found = self._found
        return {key: found[key].where if key in found else DEFAULT for key in leaves()}


def load(
    config_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
    arguments: Mapping[str, object] = {},
    senders: SenderTypes | None = None,
    data: bytes | None = None,
    side: Side | None = None,
) -> Loaded:
    """Read the settings from the YAML file, the environment and the command line, and check all of them.

    `config_file` is the file's path; None means the one that KASPAN_CONFIG in `environ` names, if it is set.
    `data` holds the file's bytes if they were read before. `arguments` maps dotted keys to values from the
    command line: text is read like an environment variable's, other values are taken as they are, None means
    not given. A later source replaces the values of the ones before it; lists are replaced whole.

    `side` is the program that reads the settings. A mistake in its own section is an error, a mistake in the
    other side's section a warning. The interceptor also ignores unknown keys of its own section, with a
    warning. Without a side all of these are errors. Unknown variables that may belong to another program, and
    values of OpenTelemetry's variables that kaspan does not support, are warnings for every side.

    Blocks while it reads the file, 1 MiB at most. Raises ConfigError with every error of every source, also
    those in values that another source replaces.
    """
    errors = Errors(side)
    checker = Checker(errors, senders)
    path = config_file if config_file is not None else environ.get(CONFIG_VARIABLE)
    if path:
        described_as = CONFIG_VARIABLE if config_file is None else "the path"
        try:
            # A shell does not expand ~ in --config=~/kaspan.yaml, nor does a container in a variable.
            checker.set("", read_file(os.path.expanduser(path), described_as, errors, data))
        except ConfigError as error:
            errors.extend(error)
    sources = (
        from_opentelemetry(environ, errors),
        from_kaspan(environ, errors),
        _from_arguments(arguments, errors),
    )
    for source in sources:
        for key, node in source:
            checker.set(key, node)
    _check_targets(checker.found, errors)
    errors.raise_if_any()
    return Loaded(_build(Settings, "", checker.found), checker.found, errors)


def _check_targets(found: dict[str, Found], errors: Errors) -> None:
    """With a store, spans need no sender, and there is none by default: it would post to the store itself."""
    if any(f"{key}.".startswith(f"{_STORE}.") for key in found):
        found.setdefault(_SENDERS, Found((), DEFAULT))
    elif _SENDERS in found and not found[_SENDERS].value:
        message = f"{_SENDERS} is an empty list; the rule is {rule(type_of(_SENDERS))}"
        errors.add(found[_SENDERS].where, message, _SENDERS)


def _from_arguments(arguments: Mapping[str, object], errors: Errors) -> Iterable[tuple[str, Node]]:
    for key, value in arguments.items():
        if type_of(key) is None:
            errors.add(COMMAND_LINE, f"there is no setting {key}; {suggest(key, types())}")
        elif isinstance(value, str):
            yield key, Scalar(value, "raw", COMMAND_LINE)
        elif value is not None:
            yield key, _node(msgspec.to_builtins(value))


def _node(value: Any) -> Node:
    if isinstance(value, dict):
        entries = {str(key): _node(item) for key, item in value.items() if item is not None}
        return Map(entries, COMMAND_LINE)
    if isinstance(value, list | tuple):
        return Items([_node(item) for item in value], COMMAND_LINE)
    if isinstance(value, str):
        return Scalar(value, "quoted", COMMAND_LINE)
    if value is None:
        return Scalar("null", "plain", COMMAND_LINE)
    return Scalar(str(value).lower() if isinstance(value, bool) else repr(value), "plain", COMMAND_LINE)


def _build(section: Section, prefix: str, found: Mapping[str, Found]) -> Any:
    values: dict[str, Any] = {}
    for name, field in fields(section).items():
        key = prefix + name
        if not any(one.startswith(key) for one in found):
            continue  # nothing in it is set: the section's default
        if is_section(type_ := key_type(field.type)):
            values[field.name] = _build(type_, f"{key}.", found)
        elif key in found:
            values[field.name] = found[key].value
    return section(**values)
