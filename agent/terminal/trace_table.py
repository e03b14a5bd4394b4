"""Draws a table of traces: a line for each, with its id at the end, to copy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kaspan.agent.terminal.line import Line, cells_of, fit, printable
from kaspan.agent.terminal.times import duration, moment
from kaspan.wire.span import Span

_GAP = 2
_MAX_TEXT = 60
_MAX_SERVICES = 10
_MIN_CELLS = 8
"""Narrower columns of names would say nothing: they are left out."""
_DATE_LENGTH = len("2026-11-28")
_NUMBERS, _NAMES = (1, 2), (4, 5)  # columns
_STYLES = {3: "red", 4: "dim", 6: "bold"}
_NUMBERS, _NAMES = (1, 2), (4, 5)  # columns
_STYLES = {3: "red", 4: "dim", 6: "bold"}


class TraceSummary(NamedTuple):
    """What the table says of a trace. `duration_us` is from its earliest start to its latest end."""

    trace_id: str
    start_us: int
    duration_us: int
    spans: int
    errors: int
    services: str
    root: str


def summarize(spans: Sequence[Span]) -> TraceSummary:
    """Summarize the spans of a trace, of which there is at least one."""
    times = [(span.timestamp, span.timestamp + (span.duration or 0)) for span in spans if span.timestamp]
    start_us = min((start for start, _ in times), default=0)
    in_order = sorted(spans, key=lambda span: (not span.timestamp, span.timestamp or 0))
    root = next((span for span in in_order if span.parent_id is None), in_order[0])
    services = dict.fromkeys(map(_service, in_order))
    return TraceSummary(
        trace_id=printable(max((span.trace_id for span in spans), key=len), 64),
        start_us=start_us,
        duration_us=max(0, max((end for _, end in times), default=0) - start_us),
        spans=len(spans),
        errors=sum("error" in span.tags for span in spans),
        services=", ".join(list(services)[:_MAX_SERVICES]),
        root=f"{_service(root)}: {printable(root.name or '?', _MAX_TEXT)}",
    )


def draw_table(traces: Sequence[TraceSummary], width: int | None) -> Iterator[Line]:
    """Yield the title and a line for each trace; names are cut off where there is no room for them.

    Ids are never cut off: they are there to be copied. `width` is in cells, None for any.
    """
    days = {moment(trace.start_us)[:_DATE_LENGTH] for trace in traces}
    is_one_day = len(days) == 1
    title = days.pop() if is_one_day else "started"
    rows = [(title, "took", "spans", "", "services", "begins with", "trace id")]
    for trace in traces:
        started = moment(trace.start_us)[_DATE_LENGTH + 1 if is_one_day else 0 :]
        started = f"{started}Z" if trace.start_us else "-"
        took = duration(trace.duration_us if trace.start_us else None)
        mark = "!" if trace.errors else ""
        rows.append((started, took, f"{trace.spans:,}", mark, trace.services, trace.root, trace.trace_id))
    widths = _fitting([max(map(cells_of, column)) for column in zip(*rows, strict=True)], width)
    for number, row in enumerate(rows):
        yield _line(row, widths, is_title=number == 0)


def _fitting(widths: list[int], width: int | None) -> list[int]:
    """Make the columns of names narrower, or leave them out, so that all columns fit."""
    if width is None:
        return widths
    first, second = _NAMES
    others = sum(cells + _GAP for column, cells in enumerate(widths) if cells and column not in _NAMES) - _GAP
    room = max(0, width - others - 2 * _GAP)
    root = min(widths[second], max(room // 2, room - widths[first]))
    services = min(widths[first], room - root)
    if services < _MIN_CELLS:
        # One gap less.
        services, root = 0, min(widths[second], room + _GAP)
    fitting = widths.copy()
    fitting[first], fitting[second] = services, root if root >= _MIN_CELLS else 0
    return fitting


def _line(row: Sequence[str], widths: Sequence[int], *, is_title: bool) -> Line:
    line = Line()
    for column, (text, cells) in enumerate(zip(row, widths, strict=True)):
        if not cells:
            continue
        if line.cells:
            line.add(" " * _GAP)
        style = "dim" if is_title else _STYLES.get(column, "")
        line.add(fit(text, cells), style, cells, right=column in _NUMBERS)
    return line.cropped(line.cells)


def _service(span: Span) -> str:
    service = span.local_endpoint and span.local_endpoint.service_name
    return printable(service or "?", _MAX_TEXT)
