"""What `kaspan trace` and `kaspan traces` share: the options for their source, and their exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TextIO

from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.cli.path import absolute
from kaspan.cli.settings import WRONG_SETTINGS, add_config_option, print_errors
from kaspan.cli.trace_source import SourceError, TraceSource
from kaspan.config import ConfigError, load, schema
from kaspan.config.errors import escaped
from kaspan.config.schema.machine_defaults import default_store_path

NOTHING_FOUND = 1
NOT_READ = 3
EXIT_CODES = (
    "Exit code 1: nothing was found; 2: wrong settings or arguments; 3: the store or Zipkin cannot be read."
)
DEFAULT_SOURCE = (
    "Without --store and --zipkin the store of the settings is read, else the one where "
    "`kaspan agent --store` and `kaspan server` keep theirs."
)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add --store, --zipkin and --config."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--store",
        type=absolute,
        metavar="DIR",
        help="read the span store in DIR, also while an agent writes it (default: agent.store.path)",
    )
    source.add_argument(
        "--zipkin",
        metavar="URL",
        help="ask the Zipkin or kaspan server at URL, such as http://127.0.0.1:9411. If a sender in the "
        "settings has this address, its credentials are used",
    )
    add_config_option(parser)


def open_source(options: argparse.Namespace) -> TraceSource:
    """Return the source that options and settings name. Raises ConfigError and SourceError."""
    given = {"agent.store.path": options.store or None}
    loaded = load(options.config, arguments=given, senders=InstalledSenders(), side="agent")
    # Imported here: without the agent's packages --help works, and `exit_code` says what to install.
    if options.zipkin is not None:
        from kaspan.cli.zipkin_source import ZipkinSource

        return ZipkinSource(options.zipkin, loaded.settings.agent)
    from kaspan.cli.store_source import StoreSource

    return StoreSource(loaded.settings.agent.store or schema.Store(path=default_store_path()))


def exit_code(command: str, act: Callable[[], int]) -> int:
    """Return what `act` returns; for its errors, print what they say and return their exit codes."""
    try:
        return act()
    except ConfigError as error:
        return print_errors(command, error)
    except SourceError as error:
        sys.stderr.write(f"{command}: {escaped(str(error))}\n")
        return NOT_READ
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        sys.stderr.write(
            f"{command}: {package} is not installed for {sys.executable}: install kaspan[agent], "
            "preferably into an environment of its own\n"
        )
        return WRONG_SETTINGS


def json_output() -> TextIO:
    """Return standard output for JSON, which is UTF-8 whatever the terminal's encoding."""
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    return sys.stdout
