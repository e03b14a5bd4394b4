"""`kaspan traces`: search traces, and list them in a table."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

import msgspec

from kaspan.cli.trace_options import (
    DEFAULT_SOURCE,
    EXIT_CODES,
    NOTHING_FOUND,
    add_source_options,
    exit_code,
    json_output,
    open_source,
)
from kaspan.cli.trace_source import TraceSource
from kaspan.config.errors import closest, escaped, escaped_json, shorten
from kaspan.store.query_request import QueryRequest
from kaspan.wire.span import Span

DEFAULT_SINCE, DEFAULT_LIMIT, MAX_LIMIT = "1d", 20, 10_000
_CLOCK_SLACK_MS = 60_000  # finds traces from machines whose clocks are ahead as well
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_as_age = re.compile(r"(\d{1,9})([smhd])").fullmatch


class Since(NamedTuple):
    """The beginning of the time to search, as it was given, and in milliseconds since the epoch."""

    text: str
    start_ms: int


def main(arguments: Sequence[str]) -> int:
    """List traces: 0, 1 if none matches, 2 for wrong settings or arguments, 3 if nothing can be read."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        request = _request(options)
    except ValueError as error:
        parser.error(str(error))
    return exit_code("kaspan traces", lambda: _run(options, request))


def _request(options: argparse.Namespace) -> QueryRequest:
    """Return the search that is asked for. Raises ValueError."""
    now_ms = time.time_ns() // 1_000_000
    return QueryRequest(
        end_ts_ms=now_ms + _CLOCK_SLACK_MS,
        lookback_ms=now_ms + _CLOCK_SLACK_MS - options.since.start_ms,
        limit=options.limit,
        service_name=options.service.lower() if options.service else None,
        annotation_query=_tags(options),
        order="longest" if options.longest else "newest",
    )


def _tags(options: argparse.Namespace) -> dict[str, str]:
    """Return the tags to search for; an empty value stands for any. Raises ValueError for a contradiction."""
    wanted = [("kafka.topic", options.topic)] if options.topic else []
    wanted += [(key.strip(), value.strip()) for key, _, value in (tag.partition("=") for tag in options.tag)]
    if options.errors:
        wanted.append(("error", ""))
    tags: dict[str, str] = {}
    for key, value in wanted:
        if not key:
            raise ValueError("argument --tag: the rule is KEY or KEY=VALUE")
        if tags.get(key) and value and tags[key] != value:
            raise ValueError(f"{shorten(key)} is asked for with two values; one search can have one of them")
        tags[key] = value or tags.get(key, "")
    return tags


def _run(options: argparse.Namespace, request: QueryRequest) -> int:
    source = open_source(options)
    found = source.traces(request)
    if not (_print_json(found) if options.json else _print_table(found)):
        sys.stderr.write(f"kaspan traces: {escaped(_nothing_found(options, request, source))}\n")
        return NOTHING_FOUND
    return 0


def _print_json(traces: Iterable[list[Span]]) -> int:
    """Print a line of JSON for each trace, as they come; returns how many."""
    output, count = json_output(), 0
    for trace in traces:
        output.write(f"{escaped_json(msgspec.json.encode(trace).decode())}\n")
        count += 1
    return count


def _print_table(traces: Iterable[list[Span]]) -> int:
    # Imported here, as it needs the agent's packages.
    from kaspan.agent.terminal.screen import Screen
    from kaspan.agent.terminal.trace_table import draw_table, summarize

    rows = [summarize(trace) for trace in traces]
    if rows:
        screen = Screen()
        screen.print(draw_table(rows, screen.table_width))
    return len(rows)


def _nothing_found(options: argparse.Namespace, request: QueryRequest, source: TraceSource) -> str:
    """Say what was looked for, and what to try."""
    tags = [f"{key}={value}" if value else key for key, value in request.annotation_query.items()]
    conditions = [f"service {request.service_name}"] if request.service_name else []
    conditions += [f"tag {shorten(tag)}" for tag in tags]
    matching = f" that matches {', '.join(conditions)}" if conditions else ""
    said = f"{source.name} has no trace since {options.since.text}{matching}"
    if request.service_name:
        services = source.services()
        if request.service_name not in services:
            close = closest(request.service_name, services)
            hint = f"did you mean {close}?" if close else f"there are {', '.join(services[:20]) or 'none'}"
            return f"{said}; there is no such service: {hint}"
    return f"{said}; try an earlier --since{' or fewer conditions' if conditions else ''}"


def _since(text: str) -> Since:
    age = _as_age(text)
    now_ms = time.time_ns() // 1_000_000
    if age:
        return Since(f"{text} ago", max(0, now_ms - int(age[1]) * _UNITS_MS[age[2]]))
    try:
        when = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text))
        start_ms = int((when if when.tzinfo else when.replace(tzinfo=timezone.utc)).timestamp() * 1000)
    except (ValueError, OverflowError):
        start_ms = -1
    if not 0 <= start_ms <= now_ms:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a time before now; the rule is a number with s, m, h or d, such as 90s "
            "or 2h, or a date and perhaps a time in UTC, such as 2026-11-28 or 2026-11-28T22:00"
        )
    return Since(text, start_ms)


def _limit(text: str) -> int:
    if not re.fullmatch("[0-9]{1,6}", text) or not 1 <= int(text) <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a number of traces; the rule is 1 to {MAX_LIMIT}"
        )
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan traces",
        description="List traces, the newest first. A trace meets all conditions, each by any of its spans; "
        "with --service, by that service's spans.",
        epilog=f"{EXIT_CODES} {DEFAULT_SOURCE} `kaspan trace ID` draws one trace.",
    )
    parser.add_argument("--service", metavar="NAME", help="traces in which this service has spans")
    parser.add_argument("--topic", metavar="NAME", help="traces with a record of this topic")
    parser.add_argument(
        "--tag",
        action="append",
        default=[],
        metavar="KEY[=VALUE]",
        help="traces with this tag, or with this value of it; may be given several times",
    )
    parser.add_argument("--errors", action="store_true", help="traces in which something failed")
    parser.add_argument(
        "--longest", action="store_true", help="those first whose longest span is longest, not the newest"
    )
    parser.add_argument(
        "--since",
        type=_since,
        default=DEFAULT_SINCE,
        metavar="TIME",
        help="traces that began after that: 90s, 15m, 2h or 7d ago, or a date and time in UTC, such as "
        f"2026-11-28T22:00 (default: {DEFAULT_SINCE})",
    )
    parser.add_argument(
        "--limit", type=_limit, default=DEFAULT_LIMIT, metavar="N", help=f"default: {DEFAULT_LIMIT}"
    )
    parser.add_argument(
        "--json", action="store_true", help="print each trace on a line, as a list of Zipkin's JSON"
    )
    add_source_options(parser)
    return parser
