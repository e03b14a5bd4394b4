"""`kaspan agent dead-letter`: list, show, replay and delete the spans that a target refused."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone

import msgspec

from kaspan.agent.spool.control_socket import Find, Purge, Replay, Reply, Request, Show, ask
from kaspan.agent.spool.dead_letters import DeadLetter, Integer, Selection
from kaspan.agent.spool.lock import SpoolError
from kaspan.cli.settings import add_spool_options, load_spool, print_errors
from kaspan.config import ConfigError
from kaspan.config.errors import escaped, escaped_json

Ask = Callable[[Request], Reply]


class _FailedError(Exception):
    """The agent did not do what was asked; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """Run one of the four commands: 0, 1 if it failed, 2 for wrong settings or arguments."""
    options = _parser().parse_args(arguments)
    try:
        spool = load_spool(options)
    except ConfigError as error:
        return print_errors("kaspan agent dead-letter", error)
    # The terminal's encoding may lack characters of a span; they are printed as escapes.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        options.act(options, lambda request: _done(ask(spool.path, spool.max_bytes, request)))
    except (SpoolError, _FailedError) as error:
        sys.stderr.write(f"kaspan agent dead-letter: {error}\n")
        return 1
    return 0


def _done(answer: Reply) -> Reply:
    if answer.error:
        raise _FailedError(answer.error)
    return answer


def _list(options: argparse.Namespace, ask_: Ask) -> None:
    rows = [("ID", "DIED (UTC)", "BYTES", "SENDER", "REASON")]
    rows += [
        (str(letter.id), _time(letter), str(letter.size_bytes), letter.sender, letter.reason)
        for letter in _all(Selection(sender=options.sender), ask_)
    ]
    if len(rows) == 1:
        sys.stderr.write("There are no dead letters.\n")
        return
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for number, died, size, sender, reason in rows:
        line = (
            f"{number:>{widths[0]}}  {died:{widths[1]}}  {size:>{widths[2]}}  {sender:{widths[3]}}  {reason}"
        )
        sys.stdout.write(f"{escaped(line)}\n")


def _all(selection: Selection, ask_: Ask) -> Iterator[DeadLetter]:
    after_id = 0
    while letters := ask_(Find(selection, after_id)).letters:
        yield from letters
        after_id = letters[-1].id


def _show(options: argparse.Namespace, ask_: Ask) -> None:
    letters = ask_(Show(options.id)).letters
    if not letters:
        raise _FailedError(
            f"there is no dead letter {options.id}; `kaspan agent dead-letter list` prints all"
        )
    (letter,) = letters
    for name, text in (("sender", letter.sender), ("died", _time(letter)), ("reason", letter.reason)):
        sys.stderr.write(f"{name}: {escaped(text)}\n")
    # Only the span, so that a pipe gets nothing else.
    sys.stdout.write(f"{escaped_json(letter.span.decode('utf-8', 'backslashreplace'))}\n")


def _replay(options: argparse.Namespace, ask_: Ask) -> None:
    selection = _selection(options)
    count = ask_(Replay(selection)).count
    left = len(list(_all(selection, ask_)))
    _check(options, count + left)
    if left:
        sys.stderr.write(f"{left} stay: the agent has no sender of their names\n")
    sys.stdout.write(f"{count} put back into the spool, for the sender that refused them\n")


def _purge(options: argparse.Namespace, ask_: Ask) -> None:
    count = ask_(Purge(_selection(options))).count
    _check(options, count)
    sys.stdout.write(f"{count} deleted\n")


def _check(options: argparse.Namespace, found: int) -> None:
    if options.ids and not found:
        raise _FailedError(
            "there is no dead letter with these ids; `kaspan agent dead-letter list` prints all"
        )


def _selection(options: argparse.Namespace) -> Selection:
    return Selection(ids=tuple(options.ids) if options.ids else None, sender=options.sender)


def _time(letter: DeadLetter) -> str:
    died = datetime.fromtimestamp(letter.died_us / 1e6, timezone.utc)
    return f"{died:%Y-%m-%d %H:%M:%S}"


def _id(text: str) -> int:
    try:
        return msgspec.convert(text, Integer, strict=False)
    except msgspec.ValidationError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is not the id of a dead letter; the rule is a whole number from 0 to {2**63 - 1}"
        ) from error


def _sender(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(f"{name!a} is not a sender's name: it is not UTF-8") from error
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan agent dead-letter",
        description="The agent keeps a span as a dead letter if a target refuses it even alone, as Zipkin "
        "does with 400. These commands work with and without a running agent.",
        epilog="Exit code 1: the command failed; 2: wrong settings or arguments. Standard error says why.",
    )
    spool = argparse.ArgumentParser(add_help=False)
    add_spool_options(spool)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[spool], help="list all dead letters, oldest first")
    listing.add_argument("--sender", type=_sender, metavar="NAME", help="only dead letters of this sender")
    listing.set_defaults(act=_list)
    showing = commands.add_parser(
        "show", parents=[spool], help="print one span; the reason goes to standard error"
    )
    showing.add_argument("id", type=_id, metavar="ID")
    showing.set_defaults(act=_show)
    for name, act, summary in (
        ("replay", _replay, "put spans back into the spool, for the sender that refused them"),
        ("purge", _purge, "delete spans for good"),
    ):
        command = commands.add_parser(name, parents=[spool], help=summary)
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "ids", type=_id, nargs="*", default=[], metavar="ID", help="dead letters with these ids"
        )
        which.add_argument("--all", action="store_true", help="all dead letters")
        which.add_argument("--sender", type=_sender, metavar="NAME", help="all dead letters of this sender")
        command.set_defaults(act=act)
    return parser
