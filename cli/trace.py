"""`kaspan trace`: draw one trace in the terminal."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

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
from kaspan.config.errors import escaped, escaped_json, shorten
from kaspan.wire.span import Span


def main(arguments: Sequence[str]) -> int:
    """Print a trace: 0, 1 if it is not there, 2 for wrong settings or arguments, 3 if nothing can be read."""
    options = _parser().parse_args(arguments)
    return exit_code("kaspan trace", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    source = open_source(options)
    spans = source.trace(options.id)
    if not spans:
        sys.stderr.write(
            f"kaspan trace: {escaped(source.name)} has no trace {options.id}; `kaspan traces` lists those "
            "that it has. A new span takes some seconds\n"
        )
        return NOTHING_FOUND
    if options.json:
        json_output().writelines(_json(spans))
        return 0
    # Imported here, as they need the agent's packages.
    from kaspan.agent.terminal.screen import Screen
    from kaspan.agent.terminal.waterfall import draw
    from kaspan.insight.trace import clean_trace

    screen = Screen()
    cleaned = clean_trace(spans)
    screen.print(draw(cleaned[0].trace_id, cleaned, screen.width, every=options.all))
    return 0


def _json(spans: Iterable[Span]) -> Iterable[str]:
    """Yield a JSON list with a span on each line, as Zipkin's API takes it."""
    before = "[\n"
    for span in spans:
        yield before + escaped_json(msgspec.json.encode(span).decode())
        before = ",\n"
    yield "\n]\n"


def _trace_id(text: str) -> str:
    trace_id = text.strip().lower()
    if not re.fullmatch("[0-9a-f]{1,32}", trace_id) or not trace_id.strip("0"):
        raise argparse.ArgumentTypeError(
            f"{shorten(text)} is not a trace id; the rule is 1 to 32 hexadecimal digits, not all of them 0"
        )
    return trace_id


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kaspan trace",
        description="Draw a trace: a line for each span with its service, its name, how long it took, and a "
        "bar on a time scale. Dots, and the column `waited`, are the time between the end of a send and the "
        "start of the work on its record. In a trace of more than 40 spans, similar siblings are one line.",
        epilog=f"{EXIT_CODES} {DEFAULT_SOURCE}",
    )
    parser.add_argument(
        "id", type=_trace_id, metavar="ID", help="the trace's id, as `kaspan traces` lists it"
    )
    parser.add_argument("--all", action="store_true", help="a line for every span, also in a large trace")
    parser.add_argument("--json", action="store_true", help="print the spans as a list of Zipkin's JSON")
    add_source_options(parser)
    return parser
