"""kaspan.agent.terminal.waterfall: a trace as people read it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kaspan.agent.terminal.line import cells_of
from kaspan.agent.terminal.waterfall import MAX_ROWS, draw
from kaspan.wire.span import Endpoint, Span

START_US = 1_732_459_200_000_000
TRACE_ID = "3ed5b5b6d271081b6765e9bc7e99c925"


def span(
    id: str,
    parent: str | None = None,
    service: str | None = "orders",
    start_ms: float = 0,
    ms: float | None = 1,
    name: str | None = None,
    kind: str | None = None,
    **more: object,
) -> Span:
    """Return a span of one trace, by its times in milliseconds after the trace's start."""
    return Span(
        trace_id=TRACE_ID,
        id=id,
        parent_id=parent,
        kind=kind,
        name=f"do {id}" if name is None else name,
        timestamp=START_US + round(start_ms * 1000),
        duration=None if ms is None else round(ms * 1000),
        local_endpoint=Endpoint(service_name=service),
        **more,  # type: ignore[arg-type]
    )


def send(id: str, parent: str | None, start_ms: float, ms: float, service: str = "orders") -> Span:
    return span(id, parent, service, start_ms, ms, "send orders", "PRODUCER")


def process(id: str, parent: str, start_ms: float, ms: float, **more: object) -> Span:
    return span(id, parent, "shipping", start_ms, ms, "process orders", "CONSUMER", **more)


SHOP = [
    send("a", None, 0, 1.9),
    process("b", "a", 12.5, 24),
    span("c", "b", "shipping", 32.8, 3.5, "send shipments", "PRODUCER"),
    span("d", "c", "mailer", 49.1, 5.2, "process shipments", "CONSUMER"),
]
REFUSED = [
    send("a", None, 0, 7.9),
    process("b", "a", 36, 271.2),
    span(
        *("c", "b", "shipping", 294.5, 0.2, "send shipments", "PRODUCER"),
        tags={"error": "[Error 10] MessageSizeTooLargeError: The message is 2089111 bytes when serialized"},
    ),
]
BATCH = [
    span("r", None, "importer", 0, 100, "import"),
    *(send(f"s{number}", "r", number, 5, "importer") for number in range(50)),
    *(
        process(f"p{number}", f"s{number}", 10 + number * 2, 4, tags={"error": "no"} if number == 7 else {})
        for number in range(50)
    ),
]


def drawn(spans: list[Span], width: int = 80, *, every: bool = False, late_spans: int = 0) -> list[str]:
    return [str(line) for line in draw(TRACE_ID, spans, width, every=every, late_spans=late_spans)]


def lines(text: str) -> list[str]:
    """Return the lines of a text whose first and last line are empty."""
    return text.split("\n")[1:-1]


def test_trace_has_an_axis_bars_and_dots_for_what_waited() -> None:
    """Who did what, what caused it, when and how long; dots lead from a send's end to the processing."""
    assert drawn(SHOP, 96) == lines("""
trace 3ed5b5b6d271081b6765e9bc7e99c925  4 spans  54.3 ms
  2024-11-24 14:40:00.000 UTC            waited     took  ╷0            ╷20 ms        ╷40 ms
  orders    send orders                           1.9 ms  ━╸
  shipping  └─ process orders           10.6 ms  24.0 ms   ┄┄┄┄┄┄┄╺━━━━━━━━━━━━━━━━╸
  shipping     └─ send shipments                  3.5 ms                        ╺━━╸
  mailer          └─ process shipments  12.8 ms   5.2 ms                           ┄┄┄┄┄┄┄┄┄━━━━
""")


def test_error_is_told_below_its_span() -> None:
    """What failed and why is seen without opening anything, in lines that fit."""
    assert drawn(REFUSED, 80) == lines("""
trace 3ed5b5b6d271081b6765e9bc7e99c925  3 spans  307.2 ms  1 error
  2024-11-24 14:40:00.000 UTC      waited      took  ╷0       ╷100 ms  ╷200 ms
  orders    send orders                      7.9 ms  ╸
  shipping  └─ process orders     28.1 ms  271.2 ms  ┄┄┄━━━━━━━━━━━━━━━━━━━━━━━━
  shipping     └─ send shipments             200 µs                           ╺
                     error: [Error 10] MessageSizeTooLargeError: The message is
                     2089111 bytes when serialized
""")


def test_terminal_without_room_for_bars_has_numbers_only() -> None:
    """Where names would be cut off very short for bars, there are none."""
    assert drawn(SHOP, 44) == lines("""
trace 3ed5b5b6d271081b6765e9bc7e99c925
  4 spans  54.3 ms
  2024-11-24 14:40:00.000 UTC
                             waited     took
  orders    send orders               1.9 ms
  shipping  └─ process or…  10.6 ms  24.0 ms
  shipping     └─ send sh…            3.5 ms
  mailer    …  process sh…  12.8 ms   5.2 ms
""")


def test_similar_siblings_are_one_line() -> None:
    """A large trace fits on a screen; what failed is a line of its own."""
    assert drawn(BATCH, 100) == lines("""
trace 3ed5b5b6d271081b6765e9bc7e99c925  101 spans  112.0 ms  1 error
  2024-11-24 14:40:00.000 UTC               waited      took  ╷0               ╷50 ms     100 ms╷
  importer  import                                  100.0 ms  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
  importer  └─ 50 x send orders                       5.0 ms  ━━━━━━━━━━━━━━━━━━╸
  shipping     ├─ 49 x process orders  5.0-54.0 ms    4.0 ms   ┄┄━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
  shipping     └─ process orders           12.0 ms    4.0 ms      ┄┄┄┄━╸
                     error: no
  2 lines for similar spans (N x); --all shows every one
""")


def test_every_span_is_a_line_if_asked_for() -> None:
    """Nothing of a trace is out of reach."""
    found = drawn(BATCH, 100, every=True)

    assert (
        sum("send orders" in line for line in found) == sum("process orders" in line for line in found) == 50
    )


def test_small_trace_is_not_folded() -> None:
    """What fits is shown as it is."""
    spans = [span("r"), *(span(f"{number}", "r", name="same") for number in range(20))]

    assert sum("same" in line for line in drawn(spans)) == 20


def test_trace_of_very_many_lines_is_cut_off_with_a_word() -> None:
    """The terminal is not flooded, and the reader knows what is left out."""
    chain = [span(f"{number:x}", f"{number - 1:x}" if number else None) for number in range(5000)]
    found = drawn(chain)

    assert len(found) == MAX_ROWS + 3
    assert found[-1] == "  ... and 4,500 spans more; --all shows every one"
    assert len(drawn(chain, every=True)) == 5000 + 2


def test_different_errors_of_similar_spans_are_counted() -> None:
    """The most frequent first, and a bound on their number."""
    spans = [
        span(f"{number}", "r", name="same", tags={"error": f"reason {min(number % 50, 4)}"})
        for number in range(100)
    ]
    told = [line.strip() for line in drawn([span("r"), *spans]) if "reason" in line or "other" in line]

    assert told == [
        "92 x error: reason 4",
        "2 x error: reason 0",
        "2 x error: reason 1",
        "and 2 other errors",
    ]


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        ({"error": "no answer", "error.type": "KafkaTimeoutError"}, "error: KafkaTimeoutError: no answer"),
        (
            {"error": "KafkaTimeoutError: no", "error.type": "KafkaTimeoutError"},
            "error: KafkaTimeoutError: no",
        ),
        ({"error": "", "error.type": "KeyError"}, "error: KeyError"),
        ({"error": ""}, "error:"),
    ],
)
def test_error_has_its_class(tags: dict[str, str], told: str) -> None:
    """A message such as 'orders' says little without it."""
    assert drawn([span("a", tags=tags)])[-1].strip() == told


def test_long_error_is_cut_off() -> None:
    """Three lines are enough to know it; --json has all of it."""
    found = drawn([span("a", tags={"error": "word " * 200})], 60)

    assert len(found) == 3 + 1 + 3
    assert found[-1].endswith("…")


def test_record_that_is_read_before_its_acknowledgement_has_not_waited() -> None:
    """A broker hands a record on before its producer knows."""
    assert "waited" not in "\n".join(drawn([send("a", None, 0, 10), process("b", "a", 5, 10)]))


def test_only_records_wait() -> None:
    """A server that begins after its client's call has ended is a matter of clocks."""
    assert "waited" not in "\n".join(
        drawn([span("a", kind="CLIENT"), span("b", "a", start_ms=9, kind="SERVER")])
    )


def test_missing_parents_are_mentioned() -> None:
    """A trace with a hole does not look whole."""
    assert drawn([span("b", "gone")])[-1] == "  the parents of 1 span are not here: not sampled, late or lost"


def test_late_spans_are_mentioned() -> None:
    """A trace that is written again says why."""
    assert "again, with 1 that came late" in "".join(drawn(SHOP, late_spans=1)[:2])


def test_span_without_times_or_names_is_shown() -> None:
    """Zipkin's fields are all optional but the ids."""
    found = drawn([Span(trace_id="1", id="a")])

    assert found[0] == f"trace {TRACE_ID}  1 span  -"
    assert found[-1].split() == ["?", "?", "-"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    """A span's text comes from anywhere."""
    bad = span("a", name="x\x1b[2J\n\u202ey", tags={"error": "\u2066\x07\r\nno"}, service="s\x9b")
    found = [str(line) for line in draw("1\x1b]0;title\x07", [bad], 80)]

    assert all(line.isprintable() for line in found)
    assert len(found) == 4


def test_letters_of_two_cells_are_counted_as_two() -> None:
    """Columns stay straight with any script."""
    spans = [span("a", service="注文", name="送る"), span("b", "a", service="abcd", name="x")]
    ends = {cells_of(line[: line.index("1.0 ms")]) for line in drawn(spans)[2:] if "1.0 ms" in line}

    assert len(ends) == 1


def test_error_is_red_and_a_service_has_one_colour() -> None:
    """What belongs together is seen, and what is wrong."""
    pieces = [piece for line in draw(TRACE_ID, REFUSED, 120) for piece in line.pieces]

    assert [text for text, style in pieces if style == "red" and text.strip()] == [
        *("1 error", "send shipments", "╸"),
        "error: [Error 10] MessageSizeTooLargeError: The message is 2089111 bytes when serialized",
    ]
    assert {style for text, style in pieces if text == "shipping"} == {"magenta"}
    assert {style for text, style in pieces if text == "orders"} == {"cyan"}


texts = st.text(max_size=12) | st.sampled_from(
    ["send orders", "\x1b[31m", "注文サービス", "e\u0301", "a" * 300]
)
ids = st.sampled_from("abcdefgh")
times = st.integers(0, 3000) | st.integers(0, 2**63)
any_span = st.builds(
    Span,
    trace_id=st.just("1"),
    id=ids,
    parent_id=st.none() | ids,
    kind=st.sampled_from([None, "PRODUCER", "CONSUMER", "CLIENT", "SERVER"]),
    name=st.none() | texts,
    timestamp=st.none() | times.map(lambda us: us + START_US) | times,
    duration=st.none() | times,
    local_endpoint=st.none() | st.builds(Endpoint, service_name=st.none() | texts),
    tags=st.dictionaries(st.sampled_from(["error", "error.type"]), texts),
    shared=st.none() | st.booleans(),
)


@settings(max_examples=300)
@given(st.lists(any_span, max_size=60), st.integers(1, 300), st.booleans(), st.text(max_size=40))
def test_any_trace_is_drawn_in_printable_lines_that_fit(
    spans: list[Span], width: int, every: bool, trace_id: str
) -> None:
    """Circles, double ids, absurd times and any text neither raise nor leave the line."""
    for line in draw(trace_id, spans, width, every=every):
        assert str(line).isprintable()
        assert cells_of(str(line)) <= width


@given(st.lists(any_span, min_size=1, max_size=60), st.integers(60, 200))
def test_each_span_of_any_trace_is_a_line(spans: list[Span], width: int) -> None:
    """With --all nothing is hidden."""
    bare = [Span(s.trace_id, s.id, s.parent_id, s.kind, "NAME", s.timestamp, s.duration) for s in spans]

    assert sum("NAME" in line for line in drawn(bare, width, every=True)) == len(spans)
