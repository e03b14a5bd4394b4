"""Run an agent in this process: for `kaspan agent` and `kaspan server`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping

from kaspan.agent.process import block_signals, keep_freed_memory, raise_descriptor_limit, serve
from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.cli.settings import WRONG_SETTINGS, print_errors
from kaspan.config import ConfigError, Loaded, load

_MADE_OF = ("agent.senders", "agent.processors", "agent.web.lens")
"""The settings of parts that can be wrong although the schema allows them; lines about them name no place."""

_log = logging.getLogger("kaspan.agent")


def load_for_agent(
    config_file: str | None, arguments: Mapping[str, object], environ: Mapping[str, str] = os.environ
) -> Loaded:
    """Read the settings as the agent does. Raises ConfigError."""
    return load(config_file, environ, arguments, senders=InstalledSenders(), side="agent")


def store_argument(path: str | None) -> dict[str, object] | None:
    """Make a setting of --store: None without it, a store at its default path if it has no path."""
    return None if path is None else {"path": path or None}


def run(command: str, load: Callable[[], Loaded]) -> int:
    """Run an agent until it is stopped, with the settings that `load` returns, also after a SIGHUP.

    Returns 0 then, 1 if a part failed, and 2 if the agent cannot start: `command` begins the messages on
    standard error. Must be called in the main thread, before any other is started.
    """
    block_signals()
    try:
        loaded = load()
    except ConfigError as error:
        return print_errors(command, error)
    try:
        # Imported here: without the agent's packages `--help` works, and the message below says what to
        # install.
        from kaspan.agent.agent import Agent
        from kaspan.agent.http.errors import ListenError
        from kaspan.agent.log import write_log
        from kaspan.agent.receivers.ring_directory import RingDirectoryError
        from kaspan.agent.spool.lock import SpoolError
        from kaspan.store.lock import StoreError

        write_log(loaded.settings.agent.log)
        _log_warnings(loaded)
        keep_freed_memory()
        raise_descriptor_limit()
        agent = Agent(loaded.settings.agent)
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"{command}: {error.name} is not installed for {sys.executable}: install kaspan[agent], "
            "preferably into an environment of its own\n"
        )
        return WRONG_SETTINGS
    except ConfigError as error:
        # A mistake that only shows when the parts are made.
        for line in error.errors:
            key = next(key for key in _MADE_OF if line.startswith(key))
            sys.stderr.write(f"{command}: {loaded.origins[key]}: {line}\n")
        return WRONG_SETTINGS
    except (StoreError, SpoolError, RingDirectoryError, ListenError) as error:
        sys.stderr.write(f"{command}: {error}\n")
        return WRONG_SETTINGS
    return serve(agent, lambda: _log_warnings(load()).settings.agent)


def _log_warnings(loaded: Loaded) -> Loaded:
    for line in loaded.warnings:
        _log.warning("settings: %s", line)
    return loaded
