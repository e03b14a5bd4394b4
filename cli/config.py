"""`kaspan config`: print the settings in effect and where each value came from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.cli.settings import add_config_option, print_errors
from kaspan.config import ConfigError, Loaded, load
from kaspan.config.display import write
from kaspan.config.keys import types, value_at

MAX_VALUE_WIDTH = 48
"""The width of the column of values; a longer value moves only its own origin to the right."""


def main(arguments: Sequence[str]) -> int:
    """Run `kaspan config`: 0, or 2 for wrong settings, with every error on standard error."""
    options = _parser().parse_args(arguments)
    # The terminal's encoding may lack characters of a value; they are printed as escapes.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        loaded = load(options.config, senders=InstalledSenders())
    except ConfigError as error:
        return print_errors("kaspan config", error)
    for line in loaded.warnings:
        sys.stderr.write(f"kaspan config: warning: {line}\n")
    lines = as_yaml(loaded) if options.format == "yaml" else as_table(loaded)
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan config",
        description="Print the settings in effect and where each value came from. Secrets are shown as ***.",
        epilog="Exit code 2: the settings are wrong; standard error says which, and where.",
    )
    add_config_option(parser)
    parser.add_argument("--format", choices=("text", "yaml"), default="text", help="default: text")
    return parser


def as_table(loaded: Loaded) -> list[str]:
    """Return one line for each setting: key, value and origin, in columns."""
    values = _values(loaded)
    key_width = max(map(len, values))
    value_width = max(len(value) for value in values.values() if len(value) <= MAX_VALUE_WIDTH)
    return [
        f"{key:{key_width}}  {values[key] or '(not set)':{value_width}}  {loaded.origins[key]}"
        for key in values
    ]


def as_yaml(loaded: Loaded) -> list[str]:
    """Return the lines of a YAML file with the same settings, each value's origin as a comment.

    Secrets are replaced by ***.
    """
    lines = []
    values = _values(loaded)
    for key in types():
        *sections, name = key.split(".")
        indented = "  " * len(sections) + name
        if key not in values:
            if value_at(loaded.settings, key) is not None:
                lines.append(f"{indented}:")
        elif values[key]:  # a key that is not set has no value
            lines.append(f"{indented}: {values[key]}  # {loaded.origins[key]}")
    return lines


def _values(loaded: Loaded) -> Mapping[str, str]:
    return {key: write(key, value_at(loaded.settings, key)) for key in loaded.origins}
