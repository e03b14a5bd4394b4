"""Draws one trace: a line for each span, with bars on a time scale, waiting dotted, errors in red."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kaspan.agent.terminal.bar import Scale
from kaspan.agent.terminal.line import ELLIPSIS, Line, Piece, cells_of, fit, head, printable, wrap
from kaspan.agent.terminal.rows import Row, arrange, missing_parents
from kaspan.agent.terminal.times import axis, duration, duration_range, moment
from kaspan.wire.span import Span

MAX_ROWS = 500
"""Rows that are shown of a trace, unless all are asked for."""
_COLOURS = (
    *("cyan", "magenta", "green", "yellow", "blue"),
    *("bright_cyan", "bright_magenta", "bright_green", "bright_yellow", "bright_blue"),
)
_INDENT = 2
_GAP = 2
_MAX_SERVICE_CELLS = 20
_MAX_NAME_CELLS = 60
_GOOD_NAME_CELLS = 24
_GOOD_BAR_CELLS = 24
_MIN_BAR_CELLS = 12
_MAX_BAR_CELLS = 120
_MAX_TEXT = 500  # characters of a name or an error
_MAX_ERROR_LINES = 3
_MAX_ERRORS = 3  # texts of errors under a folded row
_DEEP = "…  "  # for the guides of a span that is too deep for its column


class Columns(NamedTuple):
    """The width of each column in cells; 0 for one that is left out."""

    service: int
    name: int
    waited: int
    took: int
    bar: int


def draw(
    trace_id: str, spans: Sequence[Span], width: int, *, every: bool = False, late_spans: int = 0
) -> Iterator[Line]:
    """Yield the lines of a trace, each at most `width` cells wide. The spans may be in any order.

    Where there is no room for bars there are only numbers. Unless `every` span is asked for, similar siblings
    of a large trace are one line with their count, and very many lines are cut off.
    `late_spans` is how many spans came after the trace was drawn before.
    """
    return (line.cropped(width) for line in _Waterfall(trace_id, spans, width, every, late_spans).lines())


class _Waterfall:
    def __init__(
        self, trace_id: str, spans: Sequence[Span], width: int, every: bool, late_spans: int
    ) -> None:
        self._trace_id = trace_id
        self._spans = spans
        self._width = width
        self._late_spans = late_spans
        times = [_times(span) for span in spans if span.timestamp]
        self._start_us = min((start for start, _ in times), default=0)
        self._total_us = max(0, max((end for _, end in times), default=0) - self._start_us)
        rows = list(arrange(spans, fold=not every))
        self._rows = rows if every else rows[:MAX_ROWS]
        self._left_out = rows[len(self._rows) :]
        services = dict.fromkeys(_service(row.spans[0]) for row in self._rows)
        self._colours = {service: _COLOURS[index % len(_COLOURS)] for index, service in enumerate(services)}
        self._columns = self._measure()
        self._scale = Scale(self._start_us, self._total_us, self._columns.bar)

    def _measure(self) -> Columns:
        """Give each column its width; names are cut off, then bars left out, where there is little room."""
        service = min(_MAX_SERVICE_CELLS, max(map(cells_of, self._colours), default=0))
        name = min(_MAX_NAME_CELLS, max((cells_of(row.guides + _name(row)) for row in self._rows), default=0))
        took = max((len(_took(row)) for row in self._rows), default=0)
        waited = max((len(_waited(row)) for row in self._rows), default=0)
        took, waited = max(took, len("took")), waited and max(waited, len("waited"))
        room = self._width - _INDENT - service - _GAP - (waited and _GAP + waited) - _GAP - took
        bar = min(_MAX_BAR_CELLS, max(_MIN_BAR_CELLS, min(_GOOD_BAR_CELLS, room - _GAP - name)))
        if room - _GAP - bar >= min(name, _GOOD_NAME_CELLS):
            name = min(name, room - _GAP - bar)
            return Columns(service, name, waited, took, min(_MAX_BAR_CELLS, room - _GAP - name))
        return Columns(service, max(1, min(name, room)), waited, took, 0)

    def lines(self) -> Iterator[Line]:
        yield from self._head()
        yield self._titles()
        for row in self._rows:
            yield self._line(row)
            yield from self._errors(row)
        yield from self._notes()

    def _head(self) -> Iterator[Line]:
        parts = [
            Piece(f"trace {printable(self._trace_id, 64)}", "bold"),
            Piece(_count(len(self._spans), "span")),
            Piece(duration(self._total_us if self._start_us else None)),
        ]
        errors = sum("error" in span.tags for span in self._spans)
        if errors:
            parts.append(Piece(_count(errors, "error"), "red"))
        if not self._has_start_in_titles:
            parts.append(Piece(self._start(), "dim"))
        if self._late_spans:
            parts.append(Piece(f"again, with {self._late_spans} that came late", "dim"))
        line = Line()
        for text, style in parts:
            if line.cells and line.cells + _GAP + cells_of(text) > self._width:
                yield line
                line = Line(Piece(" " * _INDENT))
            elif line.cells:
                line.add(" " * _GAP)
            line.add(text, style)
        yield line

    def _titles(self) -> Line:
        columns = self._columns
        left = self._start() if self._has_start_in_titles else ""
        line = Line(Piece(" " * _INDENT)).add(left, "dim", columns.service + _GAP + columns.name)
        if columns.waited:
            line.add(" " * _GAP).add("waited", "dim", columns.waited, right=True)
        line.add(" " * _GAP).add("took", "dim", columns.took, right=True)
        return line.add(" " * _GAP).add(axis(self._total_us, columns.bar), "dim")

    @property
    def _has_start_in_titles(self) -> bool:
        return len(self._start()) <= self._columns.service + _GAP + self._columns.name

    def _start(self) -> str:
        return f"{moment(self._start_us, milliseconds=True)} UTC" if self._start_us else ""

    def _line(self, row: Row) -> Line:
        columns, service = self._columns, _service(row.spans[0])
        is_error = "error" in row.spans[0].tags
        colour = self._colours[service]
        guides = _DEEP if self._is_deep(row) else row.guides
        line = Line(Piece(" " * _INDENT)).add(fit(service, columns.service), colour, columns.service)
        line.add(" " * _GAP).add(guides, "dim")
        name_cells = columns.name - len(guides)
        line.add(fit(_name(row), name_cells), "red" if is_error else "", name_cells)
        if columns.waited:
            line.add(" " * _GAP).add(_waited(row), "dim", columns.waited, right=True)
        line.add(" " * _GAP).add(_took(row), "", columns.took, right=True)
        if columns.bar:
            line.add(" " * _GAP)
            working = [_times(span) for span in row.spans if span.timestamp]
            for piece in self._scale.bar(working, row.waits, "red" if is_error else colour):
                line.add(*piece)
        return line

    def _errors(self, row: Row) -> Iterator[Line]:
        """Yield the texts of a row's errors, the most frequent first."""
        texts = Counter(_error(span) for span in row.spans if "error" in span.tags).most_common()
        below = _DEEP if self._is_deep(row) else row.below
        before = " " * (_INDENT + self._columns.service + _GAP)
        cells = self._width - len(before) - len(below)
        for text, count in texts[:_MAX_ERRORS]:
            counted = f"{count} x {text}" if len(texts) > 1 else text
            for line in _first_lines(counted, cells):
                yield Line(Piece(before), Piece(below, "dim"), Piece(line, "red"))
        if len(texts) > _MAX_ERRORS:
            more = f"and {len(texts) - _MAX_ERRORS} other errors"
            yield Line(Piece(before), Piece(below, "dim"), Piece(more, "red"))

    def _is_deep(self, row: Row) -> bool:
        """Whether the tree lines would leave too little room for the name."""
        cells = self._columns.name
        return len(row.guides) > cells // 2 and len(row.guides) + cells_of(_name(row)) > cells

    def _notes(self) -> Iterator[Line]:
        folded = sum(len(row.spans) > 1 for row in self._rows)
        notes = []
        if self._left_out:
            spans = sum(len(row.spans) for row in self._left_out)
            notes.append(f"... and {_count(spans, 'span')} more; --all shows every one")
        elif folded:
            notes.append(f"{_count(folded, 'line')} for similar spans (N x); --all shows every one")
        missing = missing_parents(self._spans)
        if missing:
            notes.append(f"the parents of {_count(missing, 'span')} are not here: not sampled, late or lost")
        for note in notes:
            for line in wrap(note, self._width - _INDENT):
                yield Line(Piece(" " * _INDENT), Piece(line, "dim"))


def _times(span: Span) -> tuple[int, int]:
    start_us = span.timestamp or 0
    return start_us, start_us + (span.duration or 0)


def _took(row: Row) -> str:
    durations_us = [span.duration for span in row.spans if span.duration is not None]
    return duration_range(durations_us) if durations_us else duration(None)


def _waited(row: Row) -> str:
    return duration_range([wait.end_us - wait.start_us for wait in row.waits]) if row.waits else ""


def _service(span: Span) -> str:
    service = span.local_endpoint and span.local_endpoint.service_name
    return printable(service or "?", _MAX_TEXT)


def _name(row: Row) -> str:
    name = printable(row.spans[0].name or "?", _MAX_TEXT)
    return f"{len(row.spans)} x {name}" if len(row.spans) > 1 else name


def _first_lines(text: str, cells: int) -> list[str]:
    lines = list(wrap(text, cells))
    if len(lines) > _MAX_ERROR_LINES:
        del lines[_MAX_ERROR_LINES:]
        lines[-1] = f"{head(lines[-1], cells - 1)}{ELLIPSIS}"
    return lines


def _error(span: Span) -> str:
    """Return the text of a span's error, with its class if the text does not have it."""
    text, kind = span.tags["error"], span.tags.get("error.type", "")
    if kind and kind not in text:
        text = f"{kind}: {text}" if text else kind
    return f"error: {printable(text, _MAX_TEXT)}"


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
