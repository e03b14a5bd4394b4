"""kaspan.agent.senders.trace_tree: a trace as people read it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.senders.trace_tree import arrange, render
from kaspan.wire.span import Endpoint, Span

START_US = 1_732_459_200_000_000


def span(
    id: str,
    parent: str | None = None,
    service: str = "orders",
    start_ms: float = 0,
    ms: float | None = 1,
    **more: object,
) -> Span:
    """Return a span of one trace, by its times in milliseconds after the trace's start."""
    return Span(
        trace_id="1",
        id=id,
        parent_id=parent,
        name=f"do {id}",
        timestamp=START_US + round(start_ms * 1000),
        duration=None if ms is None else round(ms * 1000),
        local_endpoint=Endpoint(service_name=service),
        **more,  # type: ignore[arg-type]
    )


ORDER = [
    span("a", None, "orders", 0, 12.4),
    span("b", "a", "shipping", 13, 21.7),
    span("c", "b", "shipping", 25.1, 8),
    span("d", "c", "mailer", 34, 12.1),
]


def lines(spans: list[Span], width: int = 80, late_spans: int = 0) -> list[str]:
    return render("463ac35c9f6413ad", spans, width, late_spans).plain.splitlines()


def test_trace_is_a_tree_with_services_starts_durations_and_bars() -> None:
    """Who did what, below what caused it, when, for how long, and where that lies in the whole."""
    assert lines(ORDER) == [
        "trace 463ac35c9f6413ad  4 spans  46.1 ms",
        "  orders    do a             +0.0 ms    12.4 ms  ━━━━━━",
        "  shipping  └─ do b         +13.0 ms    21.7 ms        ━━━━━━━━━━━━",
        "  shipping     └─ do c      +25.1 ms     8.0 ms               ━━━━",
        "  mailer          └─ do d   +34.0 ms    12.1 ms                   ━━━━━━━",
    ]


def test_narrow_terminal_has_no_bars() -> None:
    """Names and numbers come first."""
    assert not any("━" in line for line in lines(ORDER, width=50))


def test_siblings_stand_in_order_of_their_start() -> None:
    """Whatever the order in which they came."""
    spans = [span("a"), span("c", "a", start_ms=3), span("b", "a", start_ms=2)]
    assert [(line.guides, line.span.id) for line in arrange(spans)] == [("", "a"), ("├─ ", "b"), ("└─ ", "c")]


def test_span_whose_parent_is_missing_stands_at_the_root() -> None:
    """A parent that was not sampled, is late or was lost hides nothing."""
    assert [(line.guides, line.span.id) for line in arrange([span("b", "gone", start_ms=1), span("a")])] == [
        ("", "a"),
        ("", "b"),
    ]


def test_error_is_written_in_red_under_its_span() -> None:
    """What failed and why is seen without opening anything."""
    failing = span("b", "a", "shipping", 1, tags={"error": "KafkaTimeoutError: no answer"})
    text = render("1", [span("a"), failing], 80)
    assert text.plain.splitlines()[-1].strip() == "error: KafkaTimeoutError: no answer"
    red = [text.plain[part.start : part.end] for part in text.spans if part.style == "red"]
    assert "do b" in red[0]
    assert red[-1] == "error: KafkaTimeoutError: no answer"


def test_shared_span_stands_below_the_span_it_shares_its_id_with() -> None:
    """The server's side of a call that Zipkin's older clients report under one id, and what it caused."""
    client, server = span("a", None, "web", 0, 9), span("a", None, "db", 1, 5, shared=True)
    child = span("c", "a", "db", 2, 1)
    assert [(line.guides, line.span.local_endpoint) for line in arrange([child, server, client])] == [
        ("", Endpoint("web")),
        ("└─ ", Endpoint("db")),
        ("   └─ ", Endpoint("db")),
    ]


def test_long_durations_are_given_in_seconds() -> None:
    """Numbers stay short."""
    assert lines([span("a", ms=1234.5)])[0].endswith("  1 span  1.23 s")


def test_span_without_times_or_names_is_shown() -> None:
    """Zipkin's fields are all optional but the ids."""
    bare = Span(trace_id="1", id="a")
    assert lines([bare]) == ["trace 463ac35c9f6413ad  1 span  0.0 ms", "  ?  ?          -          -"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    """A span's text comes from anywhere."""
    bad = Span(
        trace_id="1",
        id="a",
        name="x\x1b[2J\n\u202ey",
        tags={"error": "\u2066\x07\r\n"},
        local_endpoint=Endpoint("s\x9b"),
    )
    assert all(line.isprintable() for line in lines([bad]))
    assert len(lines([bad])) == 3


def test_late_spans_are_mentioned() -> None:
    """A trace that is written again says why."""
    assert lines(ORDER, late_spans=1)[0].endswith("again, with 1 that came late")


ids = st.sampled_from("abcdefgh")
any_spans = st.lists(
    st.builds(
        span,
        ids,
        st.one_of(st.none(), ids),
        start_ms=st.integers(-10, 10),
        ms=st.one_of(st.none(), st.integers(0, 50)),
    ),
    min_size=1,
    max_size=30,
)


@given(any_spans, st.integers(1, 200))
def test_every_span_is_shown_once_whatever_the_parents(spans: list[Span], width: int) -> None:
    """Circles, double ids and spans that are their own parents neither hide a span nor hang."""
    assert sorted(map(id, spans)) == sorted(id(line.span) for line in arrange(spans))
    assert len(lines(spans, width)) == len(spans) + 1


def test_deep_trace_is_shown_to_its_end() -> None:
    """A chain of any length neither exhausts the stack nor makes lines of any length."""
    chain = [
        span(f"{number:x}", f"{number - 1:x}" if number else None, start_ms=number) for number in range(5000)
    ]
    shown = lines(chain)
    assert len(shown) == 5001
    assert max(map(len, shown)) < 200
