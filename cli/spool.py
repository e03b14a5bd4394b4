"""`kaspan agent spool recover`: put what can be read of damaged spools back."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from glob import escape, glob

from kaspan.agent.spool.control_socket import Recover, ask
from kaspan.agent.spool.database import DAMAGED_INFIX
from kaspan.agent.spool.lock import SpoolError
from kaspan.cli.path import absolute
from kaspan.cli.settings import add_spool_options, load_spool, print_errors
from kaspan.config import ConfigError
from kaspan.config.errors import escaped

RECOVERED = ".recovered-"
"""In the place of DAMAGED_INFIX in the name of a file of which all that can be read is back."""


def main(arguments: Sequence[str]) -> int:
    """Recover: 0, 1 when it could not be done, 2 for wrong settings or arguments."""
    options = _parser().parse_args(arguments)
    try:
        spool = load_spool(options)
    except ConfigError as error:
        return print_errors("kaspan agent spool", error)
    paths = options.files or _set_aside(spool.path)
    if not paths:
        sys.stderr.write(f"There is no damaged spool beside {spool.path}.\n")
    return max([_recover(path, spool.path, spool.max_bytes) for path in paths], default=0)


def _set_aside(path: str) -> list[str]:
    found = glob(f"{escape(path)}{DAMAGED_INFIX}*")
    return sorted(name for name in found if name.rpartition("-")[2].isdecimal())


def _recover(path: str, spool_path: str, max_bytes: int) -> int:
    shown = escaped(path)
    try:
        answer = ask(spool_path, max_bytes, Recover(os.fsencode(path)))
    except SpoolError as error:
        sys.stderr.write(f"kaspan agent spool: {error}\n")
        return 1
    found = answer.recovered
    if found is None:
        sys.stderr.write(f"kaspan agent spool: {shown}: {answer.error}\n")
        return 1
    sys.stdout.write(
        f"{shown}: {found.spans} spans and {found.dead_letters} dead letters are back in the spool; "
        f"{found.damaged_spans} more spans of the same rows are damaged\n"
    )
    return _name_anew(path) if DAMAGED_INFIX in path else 0


def _name_anew(path: str) -> int:
    """Say by the file's name that it was recovered, so that it is not again."""
    done = RECOVERED.join(path.rsplit(DAMAGED_INFIX, 1))
    try:
        os.rename(path, done)
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}-journal", f"{done}-journal")
    except OSError as error:
        sys.stderr.write(
            f"kaspan agent spool: {escaped(path)}: {error.strerror}; remove it, or it is recovered again\n"
        )
        return 1
    sys.stdout.write(f"It is now {escaped(done)}; remove it when you need it no more.\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan agent spool",
        description="A damaged spool is set aside, and the agent goes on with a new one.",
        epilog="Exit code 1: it could not be done; 2: wrong settings or arguments. Standard error says why.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    recovering = commands.add_parser(
        "recover",
        help="put what can be read of it back, for the senders that had not delivered it",
        description="Read every page of a damaged spool that can be read, and put the spans that were not "
        "delivered and the dead letters into the spool in use. Works while the agent runs and while it does "
        "not. The file stays, under another name.",
    )
    recovering.add_argument(
        "files",
        type=absolute,
        metavar="FILE",
        nargs="*",
        help="the damaged spool (default: all beside the agent's)",
    )
    add_spool_options(recovering)
    return parser
