"""kaspan.agent.senders.console: when a trace is printed."""

from __future__ import annotations

import io
import json
import re

import pytest

from kaspan.agent.senders import console
from kaspan.agent.senders.base import Delivered, Refused
from kaspan.agent.senders.console import ConsoleSender

QUIET_S = 1.5


class Terminal:
    """A console sender, what it has printed, and a clock that tests turn."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.now_s = 0.0
        self.sender = ConsoleSender(QUIET_S, self.stream, lambda: self.now_s)

    def send(self, row_id: int, *ids: str) -> None:
        """Send spans given as trace/span."""
        spans = [dict(zip(("traceId", "id"), id.split("/"), strict=True)) for id in ids]
        assert self.sender.send(json.dumps(spans)[1:-1].encode(), row_id) == Delivered()
        self.sender.idle()

    def after(self, seconds: float) -> list[str]:
        """Let time pass; gives the traces printed so far, each as trace:spans."""
        self.now_s += seconds
        self.sender.idle()
        return [
            f"{trace}:{count}"
            for trace, count in re.findall(r"trace (\w+)  (\d+) span", self.stream.getvalue())
        ]


@pytest.fixture
def terminal() -> Terminal:
    return Terminal()


def test_trace_is_printed_when_its_spans_have_stopped_coming(terminal: Terminal) -> None:
    """Spans of one trace come from several applications, and are shown together."""
    terminal.send(1, "a/1")
    assert terminal.after(QUIET_S * 0.9) == []
    terminal.send(2, "a/2")
    assert terminal.after(QUIET_S * 0.9) == []
    assert terminal.after(QUIET_S * 0.1) == ["a:2"]


def test_rows_are_passed_when_their_traces_are_printed(terminal: Terminal) -> None:
    """A kill loses no trace: spans that were not printed are still in the spool."""
    terminal.send(1, "a/1")
    terminal.now_s += 1.0
    terminal.send(2, "b/1")
    terminal.send(3, "a/2")
    assert terminal.sender.passed(3) == 0
    terminal.after(QUIET_S - 0.5)
    assert terminal.sender.passed(3) == 0
    terminal.after(1.0)
    assert terminal.sender.passed(3) == 3


def test_late_span_has_its_trace_printed_again_whole(terminal: Terminal) -> None:
    """A consumer that lags is seen in the trace it belongs to."""
    terminal.send(1, "a/1", "a/2")
    terminal.after(QUIET_S)
    terminal.send(2, "a/3")
    assert terminal.after(QUIET_S) == ["a:2", "a:3"]
    assert "3 spans  -  again, with 1 that came late" in terminal.stream.getvalue()


def test_span_that_is_delivered_twice_is_shown_once(terminal: Terminal) -> None:
    """Delivery is at least once: a repeated span adds no line and no second print."""
    terminal.send(1, "a/1", "a/1")
    assert terminal.after(QUIET_S) == ["a:1"]
    terminal.send(2, "a/1")
    assert terminal.after(QUIET_S) == ["a:1"]
    assert terminal.sender.passed(2) == 2


def test_everything_is_printed_at_the_end(terminal: Terminal) -> None:
    """An agent that stops leaves no trace unprinted."""
    terminal.send(1, "a/1", "b/1")
    terminal.sender.close()
    assert terminal.after(0) == ["a:1", "b:1"]
    assert terminal.sender.passed(1) == 1


def test_what_is_no_span_is_refused(terminal: Terminal) -> None:
    """It ends among the dead letters, with the reason."""
    for raw in (b"garbage", b'{"id":"1"}', b'{"traceId":"a","id":1}', b"[]"):
        outcome = terminal.sender.send(raw, 1)
        assert isinstance(outcome, Refused)
        assert outcome.reason.startswith("not a list of Zipkin v2 spans: ")


def test_memory_is_bounded_by_printing_the_oldest(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the bound traces are printed as they are; beyond another those printed are forgotten."""
    monkeypatch.setattr(console, "MAX_SPANS_HELD", 10)
    monkeypatch.setattr(console, "MAX_SPANS_REMEMBERED", 5)
    for number in range(30):
        terminal.send(number, f"{number}/1")
    assert terminal.after(0) == [f"{number}:1" for number in range(20)]
    assert list(terminal.sender._printed) == [str(number) for number in range(15, 20)]


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file gets plain text, a terminal colour."""

    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, coloured = io.StringIO(), Tty()
    printed(plain)
    printed(coloured)
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[31m" in coloured.getvalue()


def printed(stream: io.StringIO) -> None:
    """Print one failing span to a stream."""
    sender = ConsoleSender(QUIET_S, stream)
    sender.send(b'{"traceId":"a","id":"1","tags":{"error":"no"}}', 1)
    sender.close()
