"""Prints each trace as a waterfall on standard output, once no new spans of it come."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

import msgspec

from kaspan.agent.senders.base import Delivered, Outcome, Refused, Sender
from kaspan.agent.terminal.line import Line
from kaspan.agent.terminal.screen import Screen
from kaspan.agent.terminal.waterfall import draw
from kaspan.wire.span import Span

MAX_SPANS_HELD = 20_000
"""Spans of incomplete traces that are held; beyond that the oldest traces are printed as they are."""
MAX_SPANS_REMEMBERED = 5_000
"""Spans of printed traces that are remembered, in case late spans come."""

_decode_spans = msgspec.json.Decoder(list[Span]).decode
_Key = tuple[str, str | None, str | None]


class _Trace:
    """The spans of one trace, by id, kind and service: a span that is delivered again replaces itself."""

    def __init__(self, row_id: int) -> None:
        self.spans: dict[_Key, Span] = {}
        self.first_row_id = row_id
        self.newest_s = 0.0
        self.printed_spans = 0

    def add(self, span: Span) -> bool:
        """Add a span; False if it was there before."""
        service = span.local_endpoint.service_name if span.local_endpoint else None
        key = (span.id, span.kind, service)
        new = key not in self.spans
        self.spans[key] = span
        return new


class ConsoleSender(Sender):
    """Prints traces to `stream`, in colour if that is a terminal.

    A trace is printed when no new span of it has come for `quiet_s`. When later spans come, the whole trace
    is printed again, as long as it is remembered. Spans that are not printed yet stay in the spool.
    """

    name = "console"
    idle_s = 0.25

    def __init__(
        self, quiet_s: float, stream: TextIO | None = None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._screen = Screen(stream)
        self._quiet_s = quiet_s
        self._clock_s = clock_s
        self._coming: dict[str, _Trace] = {}
        self._printed: dict[str, _Trace] = {}
        self._held_spans = self._remembered_spans = 0

    def send(self, spans: bytes, last_id: int) -> Outcome:
        """Add spans to their traces. Refuses anything but a list of Zipkin v2 spans."""
        try:
            decoded = _decode_spans(b"[" + spans + b"]")
        except msgspec.MsgspecError as error:
            return Refused(f"not a list of Zipkin v2 spans: {error}")
        now_s = self._clock_s()
        for span in decoded:
            trace = self._coming.get(span.trace_id) or self._begin(span.trace_id, last_id)
            if trace.add(span):
                trace.newest_s = now_s
                self._held_spans += 1
        while self._held_spans > MAX_SPANS_HELD:
            self._print(next(iter(self._coming)))
        return Delivered()

    def _begin(self, trace_id: str, row_id: int) -> _Trace:
        trace = self._printed.pop(trace_id, None)
        if trace is None:
            trace = _Trace(row_id)
        else:
            self._remembered_spans -= len(trace.spans)
            self._held_spans += len(trace.spans)
            trace.first_row_id = row_id
        self._coming[trace_id] = trace
        return trace

    def idle(self) -> None:
        """Print the traces that got no new span for `quiet_s`."""
        quiet_since_s = self._clock_s() - self._quiet_s
        for trace_id in [key for key, trace in self._coming.items() if trace.newest_s <= quiet_since_s]:
            self._print(trace_id)

    def passed(self, last_id: int) -> int:
        """Give up rows once all traces that began in them are printed."""
        return min((trace.first_row_id - 1 for trace in self._coming.values()), default=last_id)

    def close(self) -> None:
        """Print all traces that are held."""
        for trace_id in list(self._coming):
            self._print(trace_id)

    def _print(self, trace_id: str) -> None:
        trace = self._coming.pop(trace_id)
        self._held_spans -= len(trace.spans)
        late_spans = len(trace.spans) - trace.printed_spans if trace.printed_spans else 0
        if not trace.printed_spans or late_spans:
            spans, width = list(trace.spans.values()), self._screen.width
            lines = draw(trace_id, spans, width, every=True, late_spans=late_spans)
            try:
                self._screen.print((*lines, Line()))
            except BrokenPipeError as error:
                # Nobody reads on, as in `kaspan agent --console | head`, so there is no use in another try.
                # Python would print another message when it flushes at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(1) from error
        trace.printed_spans = len(trace.spans)
        self._printed[trace_id] = trace
        self._remembered_spans += len(trace.spans)
        while self._remembered_spans > MAX_SPANS_REMEMBERED:
            forgotten = self._printed.pop(next(iter(self._printed)))
            self._remembered_spans -= len(forgotten.spans)
