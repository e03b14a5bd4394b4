"""Renders one trace as a tree of lines: service, name, start, duration and error of each span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.text import Text

from kaspan.wire.span import Span

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")
_MAX_DEPTH = 16  # deeper spans are shown at this depth, to limit the length of lines
_MAX_NAME = 60
_BAR_CELLS = 24
_MIN_BAR_CELLS = 8


class Line(NamedTuple):
    """A span, the tree lines before it, and those before the text below it."""

    span: Span
    guides: str
    below: str


def arrange(spans: Iterable[Span]) -> list[Line]:
    """Put spans below their parents, siblings by start. A span whose parent is missing becomes a root."""
    ordered = sorted(spans, key=lambda span: (span.timestamp is None, span.timestamp or 0))
    parents = _parents(ordered)
    children: dict[int | None, list[int]] = {}
    for index, parent in enumerate(parents):
        children.setdefault(parent, []).append(index)
    lines: list[Line] = []
    placed: set[int] = set()
    # A cycle of parents has no root; it is entered at its first span.
    for root in (*children.get(None, ()), *range(len(ordered))):
        if root not in placed:
            lines += [Line(ordered[index], *guides) for index, guides in _walk(root, children, placed)]
    return lines


def _parents(spans: Sequence[Span]) -> list[int | None]:
    """Return the index of each span's parent. The parent of a shared span is the span with the same id."""
    caller = {span.id: index for index, span in reversed(list(enumerate(spans))) if not span.shared}
    holder = caller | {span.id: index for index, span in enumerate(spans) if span.shared}
    return [
        caller.get(span.id, holder.get(span.parent_id or ""))
        if span.shared
        else holder.get(span.parent_id or "")
        for span in spans
    ]


def _walk(
    root: int, children: dict[int | None, list[int]], placed: set[int]
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield a span and all below it, parents first, with tree lines. Not recursive: traces may be deep."""
    stack = [(root, "", "")]
    while stack:
        index, guides, below = stack.pop()
        if index in placed:
            continue
        placed.add(index)
        offspring = children.get(index, [])
        yield index, (guides, below + ("│  " if offspring else "   "))
        inside = below if len(below) < 3 * _MAX_DEPTH else below[:-3]
        for child in reversed(offspring):
            last = child == offspring[-1]
            stack.append((child, inside + ("└─ " if last else "├─ "), inside + ("   " if last else "│  ")))


def render(trace_id: str, spans: Sequence[Span], width: int, late_spans: int = 0) -> Text:
    """Return a trace as text, at most `width` cells wide if the names are short enough.

    `late_spans` is how many spans came after the trace was printed before.
    """
    lines = arrange(spans)
    starts = [span.timestamp for span in spans if span.timestamp]
    start_us = min(starts, default=0)
    total_us = (
        max((span.timestamp + (span.duration or 0) for span in spans if span.timestamp), default=0) - start_us
    )
    services = list(dict.fromkeys(_service(line.span) for line in lines))
    service_cells = max(map(len, services))
    name_cells = max(len(line.guides + _name(line.span)) for line in lines)
    bar_cells = min(_BAR_CELLS, width - 2 - service_cells - 2 - name_cells - 2 * 11 - 2)
    text = Text()
    text.append("trace ", "dim").append(_printable(trace_id), "bold")
    text.append(f"  {len(spans)} span{'' if len(spans) == 1 else 's'}  {_duration(total_us)}")
    if late_spans:
        text.append(f"  again, with {late_spans} that came late", "dim")
    for line in lines:
        span, service = line.span, _service(line.span)
        colour = _COLOURS[services.index(service) % len(_COLOURS)]
        error = span.tags.get("error")
        text.append("\n  ").append(service.ljust(service_cells), colour)
        text.append("  ").append(line.guides, "dim")
        text.append(_name(span).ljust(name_cells - len(line.guides)), "red" if error is not None else "")
        offset_us = max(0, span.timestamp - start_us) if span.timestamp else None
        begun = _duration(offset_us) if offset_us is None else f"+{_duration(offset_us)}"
        text.append(begun.rjust(11), "dim").append(_duration(span.duration).rjust(11))
        if bar_cells >= _MIN_BAR_CELLS and offset_us is not None:
            bar = _bar(offset_us, span.duration or 0, total_us, bar_cells)
            text.append("  ").append(bar, "red" if error is not None else colour)
        if error is not None:
            text.append("\n  " + " " * (service_cells + 2)).append(line.below, "dim")
            text.append(f"error: {_printable(error)[:500]}", "red")
    text.append("\n")
    return text


def _bar(offset_us: int, duration_us: int, total_us: int, cells: int) -> str:
    """Return a bar that shows when a span ran within the trace; at least one cell."""
    if total_us <= 0:
        return "━"
    first = min(cells - 1, offset_us * cells // total_us)
    last = min(cells, max(first + 1, round((offset_us + duration_us) * cells / total_us)))
    return " " * first + "━" * (last - first)


def _duration(duration_us: int | None) -> str:
    if duration_us is None:
        return "-"
    if duration_us < 1_000_000:
        return f"{duration_us / 1000:.1f} ms"
    return f"{duration_us / 1_000_000:.2f} s"


def _service(span: Span) -> str:
    return _printable((span.local_endpoint and span.local_endpoint.service_name) or "?")[:_MAX_NAME]


def _name(span: Span) -> str:
    return _printable(span.name or "?")[:_MAX_NAME]


def _printable(text: str) -> str:
    """Replace control characters: a span's text comes from anywhere, and must not control the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
