"""`kaspan agent`: take spans from applications and deliver them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from kaspan.cli.path import absolute
from kaspan.cli.run_agent import load_for_agent, run, store_argument
from kaspan.cli.settings import add_config_option

_COMMANDS = {
    "status": "kaspan.cli.status",
    "dead-letter": "kaspan.cli.dead_letter",
    "spool": "kaspan.cli.spool",
}


def main(arguments: Sequence[str]) -> int:
    """Run the agent until it is stopped: returns 0 then, 1 if a part failed, 2 if the agent cannot start."""
    command = _COMMANDS.get(arguments[0]) if arguments else None
    if command is not None:
        code: int = import_module(command).main(arguments[1:])
        return code
    options = _parser().parse_args(arguments)
    return run("kaspan agent", lambda: load_for_agent(options.config, parse_settings(arguments)))


def parse_settings(arguments: Sequence[str]) -> dict[str, object]:
    """Map the arguments of the command line to dotted keys of the settings; None means not given.

    A wrong command line ends the process with 2 and a message.
    """
    options = _parser().parse_args(arguments)
    senders: list[dict[str, object]] = []
    if options.zipkin is not None:
        senders.append({"type": "zipkin", "url": options.zipkin})
    if options.kafka is not None:
        senders.append({"type": "kafka", "bootstrap_servers": options.kafka.split(",")})
    if options.console:
        senders.append({"type": "console"})
    return {
        "agent.senders": senders or None,
        "agent.listen": options.listen,
        "agent.ring_dirs": options.ring_dir or None,
        "agent.spool.path": options.spool or None,
        "agent.store": store_argument(options.store),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan agent",
        description="Take spans from applications, keep them on disk, and deliver them. `kaspan agent "
        "status` prints the state of the agent that runs, `kaspan agent dead-letter` the spans that a target "
        "refused, and `kaspan agent spool recover` reads spans back from a damaged spool.",
        epilog="Exit code 2: the agent cannot start; standard error says why. --zipkin, --kafka and "
        "--console replace the senders of the YAML file.",
    )
    add_config_option(parser)
    parser.add_argument(
        "--zipkin", metavar="URL", help="send to this Zipkin: http://zipkin:9411, or the full address"
    )
    parser.add_argument("--kafka", metavar="HOST:PORT,...", help="send to the topic `zipkin` of this Kafka")
    parser.add_argument("--console", action="store_true", help="print each trace as a waterfall")
    parser.add_argument(
        "--ring-dir",
        type=absolute,
        metavar="DIR",
        action="append",
        default=[],
        help="read the rings in DIR; may be given several times",
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        help='accept spans by HTTP at this address (default: 127.0.0.1:9412; "" for none)',
    )
    parser.add_argument(
        "--spool", type=absolute, metavar="FILE", help="keep spans in FILE until they are delivered"
    )
    parser.add_argument(
        "--store",
        type=absolute,
        nargs="?",
        const="",
        metavar="DIR",
        help="keep all spans in a store of its own too, in DIR if it is given, and answer Zipkin's queries",
    )
    return parser
