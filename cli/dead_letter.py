"""`kaspan agent dead-letter`: list, show, replay and purge the spans that a target refused."""

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
    """What was asked for was not done; the message says why."""


def main(arguments: Sequence[str]) -> int:
    """Do one of the four: 0, 1 when it could not be done, 2 for wrong settings or arguments."""
    options = _parser().parse_args(arguments)
    try:
        spool = load_spool(options)
    except ConfigError as error:
        return print_errors("kaspan agent dead-letter", error)
    # Spans hold what the terminal's encoding may lack; it is shown escaped then.
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
        raise _FailedError(f"there is no dead letter {options.id}; `kaspan agent dead-letter list` has all")
    (letter,) = letters
    for name, text in (("sender", letter.sender), ("died", _time(letter)), ("reason", letter.reason)):
        sys.stderr.write(f"{name}: {escaped(text)}\n")
    # The span alone, so that it can be piped.
    sys.stdout.write(f"{escaped_json(letter.span.decode('utf-8', 'backslashreplace'))}\n")


def _replay(options: argparse.Namespace, ask_: Ask) -> None:
    selection = _selection(options)
    count = ask_(Replay(selection)).count
    left = len(list(_all(selection, ask_)))
    _check(options, count + left)
    if left:
        sys.stderr.write(f"{left} stay: they are of no sender that the agent has\n")
    sys.stdout.write(f"{count} put back among the spans, for the sender that refused them\n")


def _purge(options: argparse.Namespace, ask_: Ask) -> None:
    count = ask_(Purge(_selection(options))).count
    _check(options, count)
    sys.stdout.write(f"{count} thrown away\n")


def _check(options: argparse.Namespace, found: int) -> None:
    if options.ids and not found:
        raise _FailedError("there is no dead letter of these ids; `kaspan agent dead-letter list` has all")


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
        raise argparse.ArgumentTypeError(f"{name!a} is not the name of a sender: it is not UTF-8") from error
    return name


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan agent dead-letter",
        description="Spans that a target refused even alone, such as Zipkin with 400, are kept as dead "
        "letters. Works while the agent runs and while it does not.",
        epilog="Exit code 1: it could not be done; 2: wrong settings or arguments. Standard error says why.",
    )
    spool = argparse.ArgumentParser(add_help=False)
    add_spool_options(spool)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    listing = commands.add_parser("list", parents=[spool], help="list all, oldest first")
    listing.add_argument("--sender", type=_sender, metavar="NAME", help="only those of this sender")
    listing.set_defaults(act=_list)
    showing = commands.add_parser(
        "show", parents=[spool], help="print one span; why it was refused to stderr"
    )
    showing.add_argument("id", type=_id, metavar="ID")
    showing.set_defaults(act=_show)
    for name, act, summary in (
        ("replay", _replay, "send spans again, to the sender that refused them"),
        ("purge", _purge, "throw spans away for good"),
    ):
        command = commands.add_parser(name, parents=[spool], help=summary)
        which = command.add_mutually_exclusive_group(required=True)
        which.add_argument("ids", type=_id, nargs="*", default=[], metavar="ID", help="those of these ids")
        which.add_argument("--all", action="store_true", help="all there are")
        which.add_argument("--sender", type=_sender, metavar="NAME", help="all of this sender")
        command.set_defaults(act=act)
    return parser
