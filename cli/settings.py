"""How commands read the settings: their options, and what they print if the settings are wrong."""

from __future__ import annotations

import argparse
import sys

from kaspan.cli.path import absolute
from kaspan.config import ConfigError, load, schema

WRONG_SETTINGS = 2
"""The exit code of every command for wrong settings or arguments."""


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add --config."""
    parser.add_argument("--config", metavar="FILE", help="the YAML file (default: KASPAN_CONFIG)")


def add_spool_options(parser: argparse.ArgumentParser) -> None:
    """Add --config and --spool, for the commands that work on the agent's spool."""
    add_config_option(parser)
    parser.add_argument(
        "--spool", type=absolute, metavar="FILE", help="the agent's spool, if the settings do not name it"
    )


def load_spool(options: argparse.Namespace) -> schema.Spool:
    """Read the settings of the spool that `options` name. Raises ConfigError."""
    arguments = {"agent.spool.path": options.spool or None}
    return load(options.config, arguments=arguments, side="agent").settings.agent.spool


def print_errors(command: str, error: ConfigError) -> int:
    """Print every error of the settings on a line of its own, to standard error; returns the exit code."""
    sys.stderr.writelines(f"{command}: {line}\n" for line in error.errors)
    return WRONG_SETTINGS
