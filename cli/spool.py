"""`kaspan agent spool recover`: put the readable spans of damaged spools back into the spool."""

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
"""Replaces DAMAGED_INFIX in the name of a damaged spool that was recovered."""


def main(arguments: Sequence[str]) -> int:
    """Recover damaged spools: 0, 1 if that failed, 2 for wrong settings or arguments."""
    options = _parser().parse_args(arguments)
    try:
        spool = load_spool(options)
    except ConfigError as error:
        return print_errors("kaspan agent spool", error)
    paths = options.files or _set_aside(spool.path)
    if not paths:
        sys.stderr.write(f"There is no damaged spool in the folder of {spool.path}.\n")
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
    return _rename(path) if DAMAGED_INFIX in path else 0


def _rename(path: str) -> int:
    """Mark by the file's name that it was recovered, so that it is not recovered again."""
    done = RECOVERED.join(path.rsplit(DAMAGED_INFIX, 1))
    try:
        os.rename(path, done)
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}-journal", f"{done}-journal")
    except OSError as error:
        sys.stderr.write(
            f"kaspan agent spool: {escaped(path)}: {error.strerror}; delete it, or it is recovered again\n"
        )
        return 1
    sys.stdout.write(f"The file is now {escaped(done)}; delete it when you do not need it any more.\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan agent spool",
        description="The agent renames a damaged spool and continues with a new one.",
        epilog="Exit code 1: the command failed; 2: wrong settings or arguments. Standard error says why.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    recovering = commands.add_parser(
        "recover",
        help="put its readable spans back into the spool, for the senders that had not delivered them",
        description="Read every readable page of a damaged spool, and put the spans that were not delivered "
        "and the dead letters into the agent's spool. Works with and without a running agent. The file "
        "stays, under another name.",
    )
    recovering.add_argument(
        "files",
        type=absolute,
        metavar="FILE",
        nargs="*",
        help="the damaged spool (default: all in the folder of the agent's spool)",
    )
    add_spool_options(recovering)
    return parser
