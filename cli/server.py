"""`kaspan server`: a small Zipkin, which takes spans by HTTP, keeps them, and answers queries."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import msgspec

from kaspan.cli.path import absolute
from kaspan.cli.run_agent import load_for_agent, run, store_argument
from kaspan.cli.settings import add_config_option
from kaspan.config import ConfigError, Loaded, schema

DEFAULT_LISTEN = "127.0.0.1:9411"
"""Where Zipkin listens."""
SPOOL_SUFFIX = "-spool.db"
_FOR_APPLICATIONS = "OTEL_EXPORTER_ZIPKIN_ENDPOINT"
"""Says where applications report, which is this server: it must not send its spans there."""


def main(arguments: Sequence[str]) -> int:
    """Run the server until it is stopped: returns 0 then, 1 if a part failed, 2 if it cannot start."""
    options = parse(arguments)
    return run("kaspan server", lambda: load_server(options))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line. A wrong one ends the process with 2 and a message."""
    return _parser().parse_args(arguments)


def load_server(options: argparse.Namespace) -> Loaded:
    """Read the settings of an agent, and take from it what belongs to the agent on this machine.

    That is its rings, its unix socket and its spool. Raises ConfigError.
    """
    given = {
        "agent.listen": options.listen,
        "agent.socket": "",
        "agent.ring_dirs": (),
        "agent.store": store_argument(options.store or ""),
    }
    environ = {name: value for name, value in os.environ.items() if name != _FOR_APPLICATIONS}
    loaded = load_for_agent(options.config, given, environ)
    agent = loaded.settings.agent
    store = agent.store or schema.Store()  # there is one: it is given above
    listen = DEFAULT_LISTEN if loaded.origins["agent.listen"] == "default" else agent.listen
    if not listen:
        where = loaded.origins["agent.listen"]
        raise ConfigError(
            [f"{where}: agent.listen is empty; a server needs an address, such as {DEFAULT_LISTEN}"]
        )
    spool = msgspec.structs.replace(agent.spool, path=store.path + SPOOL_SUFFIX)
    agent = msgspec.structs.replace(agent, listen=listen, spool=spool)
    loaded.settings = msgspec.structs.replace(loaded.settings, agent=agent)
    return loaded


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan server",
        description="Take spans as Zipkin does, keep them in a store of its own, and answer Zipkin's "
        "queries, in the foreground until SIGTERM or Ctrl-C. The agent of this machine is left alone: a "
        "server reads no rings.",
        epilog="Exit code 2: the server cannot start; standard error says why. The other settings, such as "
        "agent.token, agent.tls and agent.senders, come from the YAML file and the environment.",
    )
    add_config_option(parser)
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help=f"listen at this address (default: agent.listen, else {DEFAULT_LISTEN})",
    )
    parser.add_argument(
        "--store",
        type=absolute,
        metavar="DIR",
        help="keep the spans in DIR, and those that are not in it yet in the file DIR-spool.db (default: "
        "agent.store.path, else the directory `store` where kaspan keeps its state)",
    )
    return parser
