"""`kaspan agent status`: print the state of the agent on this machine."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.agent.status import SenderStatus, ServiceStatus, SpoolStatus, Status, StoreStatus
from kaspan.cli.ask import NoAnswerError, ask
from kaspan.cli.settings import add_config_option, print_errors
from kaspan.config import ConfigError, load, schema
from kaspan.config.errors import escaped, escaped_json

if TYPE_CHECKING:
    from rich.console import Console

PATH = "/status"
_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_MAX_ERROR = 100


def main(arguments: Sequence[str]) -> int:
    """Print the status: 0 if all is well, 1 if not, 2 for wrong settings, 3 if no agent answers."""
    options = _parser().parse_args(arguments)
    try:
        given = {"agent.listen": options.listen, "agent.socket": options.listen and ""}
        loaded = load(options.config, arguments=given, senders=InstalledSenders(), side="agent")
        settings = loaded.settings.agent
    except ConfigError as error:
        return print_errors("kaspan agent status", error)
    try:
        raw, status = fetch(settings)
    except NoAnswerError as error:
        sys.stderr.write(f"kaspan agent status: {escaped(str(error))}\n")
        return 3
    if options.format == "json":
        sys.stdout.write(escaped_json(raw.decode()) + "\n")
    else:
        _print(status)
    return 1 if status.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan agent status",
        description="Print the state of the agent on this machine: spans taken, waiting, sent, and problems.",
        epilog="Exit code 0: all is well; 1: something is wrong; 2: the settings are; 3: no agent answers.",
    )
    add_config_option(parser)
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="ask at this address, if the agent was started with it"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    return parser


def fetch(settings: schema.Agent) -> tuple[bytes, Status]:
    """Ask the agent with these settings for its status; returns the answer's bytes, and decoded.

    Blocks as `ask` does. Raises NoAnswerError if no agent of this version answers.
    """
    code, body = ask(settings, "GET", PATH)
    if code == 401:
        raise NoAnswerError("the agent expects another token than agent.token in these settings")
    try:
        if code == 200:
            return body, msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        pass
    raise NoAnswerError(
        f"the server that answers (HTTP {code}) is not a kaspan agent of this version; check agent.listen "
        "and agent.socket"
    )


def _print(status: Status) -> None:
    """Print tables, with colours on a terminal."""
    console = _console() if sys.stdout.isatty() else None
    # The output's encoding may lack characters of a name; they are printed as escapes.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for line in lines(status):
        if console is None:
            sys.stdout.write(f"{line.text}\n")
        else:
            console.print(line.text, style=line.style, markup=False)


def _console() -> Console | None:
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    return Console(highlight=False, soft_wrap=True)


class Line(NamedTuple):
    """A line of the output, and its style on a terminal."""

    text: str
    style: str = ""


def lines(status: Status, now_s: float | None = None) -> list[Line]:
    """Write a status as lines, in columns; `now_s` is the Unix time in seconds."""
    up_s = max(0.0, (time.time() if now_s is None else now_s) - status.started_at_s)
    version = printable(status.version)
    first = f"{status.state}: kaspan agent {version}, pid {status.pid}, up {duration(up_s)}"
    shown = [Line(first, "bold red" if status.problems else "bold green")]
    shown += [
        Line(f"! {printable(found.text)} ({printable(found.reason)})", "red") for found in status.problems
    ]
    shown += [Line(""), *_receivers(status), Line("")]
    if status.receivers.services:
        head = ("rings of", "rings", "full", "accepted", "dropped", "errors")
        shown += [*_table(head, _rings(status)), *_without_length(status), Line("")]
    shown += [*_spool(status.spool), Line("")]
    if status.store is not None:
        shown += [*_store(status.store), Line("")]
    shown += _table(("sender", "sent", "refused", "behind", "state", "last error"), _senders(status))
    drops = [(reason, str(count)) for reason, count in status.dropped_spans.items() if count]
    if drops:
        shown += [Line(""), *_table(("dropped", "spans"), drops)]
    return shown


def _receivers(status: Status) -> list[Line]:
    receivers = status.receivers
    refused = ", ".join(f"{reason} {count}" for reason, count in receivers.refused_requests.items() if count)
    rows = [(way, str(count)) for way, count in receivers.accepted_spans.items()]
    notes = [f"requests refused: {refused}"] if refused else []
    if receivers.lost_ring_bytes or receivers.rejected_rings:
        lost = _size(receivers.lost_ring_bytes)
        notes.append(f"rings rejected: {receivers.rejected_rings}; lost in damaged rings: {lost}")
    return [*_table(("receiver", "spans"), rows), *(Line(printable(note)) for note in notes)]


def _rings(status: Status) -> list[tuple[str, ...]]:
    def row(service: ServiceStatus) -> tuple[str, ...]:
        counts = (service.accepted_spans, service.dropped_spans, service.suppressed_errors)
        return (service.name, str(service.rings), f"{service.fill:.0%}", *map(str, counts))

    return [row(service) for service in status.receivers.services]


def _without_length(status: Status) -> list[Line]:
    return [
        Line(
            f"{printable(service.name)}: of {service.polled_records} polled records, "
            f"{service.records_without_length} have a span of no length"
        )
        for service in status.receivers.services
        if service.records_without_length
    ]


def _spool(spool: SpoolStatus) -> list[Line]:
    oldest = "-" if spool.oldest_age_s is None else duration(spool.oldest_age_s)
    row = (
        *(spool.path, str(spool.spans), f"{_size(spool.bytes)} of {_size(spool.max_bytes)}", oldest),
        f"{spool.dead_spans} ({_size(spool.dead_bytes)})",
    )
    return _table(("spool", "spans", "size", "oldest", "dead letters"), [row])


def _store(store: StoreStatus) -> list[Line]:
    oldest = "-" if store.oldest_age_s is None else duration(store.oldest_age_s)
    row = (
        *(store.path, str(store.spans), f"{_size(store.bytes)} of {_size(store.max_bytes)}"),
        *(str(store.partitions), oldest, str(store.deleted_spans)),
    )
    return _table(("store", "spans", "size", "files", "oldest", "deleted"), [row])


def _senders(status: Status) -> list[tuple[str, ...]]:
    return [
        (
            sender.name,
            str(sender.sent_spans),
            str(sender.dead_spans),
            "-" if sender.behind_s is None else f"{sender.behind_batches} ({duration(sender.behind_s)})",
            _state(sender),
            _last_error(sender),
        )
        for sender in status.senders
    ]


def _state(sender: SenderStatus) -> str:
    if sender.failing_s is not None:
        return f"fails for {duration(sender.failing_s)}"
    if sender.last_success_age_s is None:
        return "nothing sent yet"
    return f"sent {duration(sender.last_success_age_s)} ago"


def _last_error(sender: SenderStatus) -> str:
    if sender.last_error_age_s is None:
        return "-"
    return f"{duration(sender.last_error_age_s)} ago: {sender.last_error[:_MAX_ERROR]}"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[Line]:
    """Align cells: the first and the last column to the left, the others to the right."""
    cells = [head, *(tuple(map(printable, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    last = len(widths) - 1
    aligned = (
        "  ".join(
            cell.ljust(width) if index in (0, last) else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )
    return [Line(text, "" if index else "bold") for index, text in enumerate(aligned)]


def printable(text: str) -> str:
    """Return text without control characters: names come from rings and errors from servers."""
    return "".join(character if character.isprintable() else " " for character in text)


def duration(seconds: float) -> str:
    """Write seconds for people."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _size(size: int) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"
