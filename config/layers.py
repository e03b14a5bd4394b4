"""Put the sources of settings over each other: defaults, file, OpenTelemetry's variables, ours, arguments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import msgspec

from kaspan.config.check import Checker, Found, SenderTypes
from kaspan.config.document import Items, Map, Node, Scalar, read_file
from kaspan.config.environment import CONFIG_VARIABLE, opentelemetry, own
from kaspan.config.errors import ConfigError, Errors, Side, suggest
from kaspan.config.keys import Section, fields, is_section, leaves, type_of, types
from kaspan.config.schema import Settings

COMMAND_LINE = "command line"


class Loaded:
    """The settings in effect, where each came from, and a line for each thing that was left aside.

    `of_others` are those of `warnings` that can be meant for another program.
    """

    def __init__(self, settings: Settings, found: Mapping[str, Found], errors: Errors) -> None:
        self.settings = settings
        self.warnings = errors.warnings
        self.of_others = errors.of_others
        self._found = found

    @cached_property
    def origins(self) -> dict[str, str]:
        """For every dotted key that holds a value where the value came from: `default`, `FILE:LINE`,
        `environment VARIABLE` or `command line`.
        """
        found = self._found
        return {key: found[key].where if key in found else "default" for key in leaves()}


def load(
    config_file: str | None = None,
    environ: Mapping[str, str] = os.environ,
    arguments: Mapping[str, object] = {},
    senders: SenderTypes | None = None,
    data: bytes | None = None,
    side: Side | None = None,
) -> Loaded:
    """Read the settings from the YAML file, the environment and the command line, and check all of them.

    `config_file` is the file's path; when None, KASPAN_CONFIG in `environ` names it, and without either
    there is none; `data` are its bytes if they were read before. `arguments` maps dotted keys to what the
    command line said: text as it would stand in a variable, or numbers, booleans, lists and maps; None is not
    given. Each source wins over the ones before it; lists are replaced whole.

    `side` is who reads them. The agent is strict on its section and the interceptor on the values in its own;
    what is wrong in the other's section, or a key that an interceptor does not know, is left aside with a
    warning. Without a side all of that is an error. Foreign variables that begin with KASPAN_, and what
    OpenTelemetry's say that kaspan does not have, are warnings to all.

    Blocks for reading the file, 1 MiB at most. Raises ConfigError with every error found in any source,
    those in values that another source overrides included.
    """
    errors = Errors(side)
    checker = Checker(errors, senders)
    path = config_file if config_file is not None else environ.get(CONFIG_VARIABLE)
    if path:
        named_by = CONFIG_VARIABLE if config_file is None else "the name given"
        try:
            # Shells leave ~ as it is in --config=~/kaspan.yaml, as containers do in a variable.
            checker.set("", read_file(os.path.expanduser(path), named_by, errors, data))
        except ConfigError as error:
            errors.extend(error)
    for source in (opentelemetry(environ, errors), own(environ, errors), _given(arguments, errors)):
        for key, node in source:
            checker.set(key, node)
    errors.raise_if_any()
    return Loaded(_build(Settings, "", checker.found), checker.found, errors)


def _given(arguments: Mapping[str, object], errors: Errors) -> Iterable[tuple[str, Node]]:
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
            continue  # its default, whatever is below it
        if is_section(field.type):
            values[field.name] = _build(field.type, f"{key}.", found)
        elif key in found:
            values[field.name] = found[key].value
    return section(**values)
