"""kaspan.agent.terminal.rows: the order of a trace's spans, and what stands below what."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.terminal.rows import arrange, missing_parents
from kaspan.wire.span import Endpoint, Span


def span(
    id: str, parent: str | None = None, service: str = "orders", start_us: int = 1, **more: object
) -> Span:
    return Span(
        *("1", id, parent),
        timestamp=start_us,
        local_endpoint=Endpoint(service),
        **more,  # type: ignore[arg-type]
    )


def tree(spans: Sequence[Span]) -> list[str]:
    """Return the tree lines before each span, and its id and service."""
    return [
        f"{row.guides}{row.spans[0].id} {row.spans[0].local_endpoint.service_name}"  # type: ignore[union-attr]
        for row in arrange(spans, fold=False)
    ]


def test_siblings_stand_in_order_of_their_start() -> None:
    """Whatever the order in which they came."""
    spans = [span("a"), span("c", "a", start_us=3), span("b", "a", start_us=2)]

    assert tree(spans) == ["a orders", "├─ b orders", "└─ c orders"]


def test_span_whose_parent_is_missing_stands_at_the_root() -> None:
    """A parent that was not sampled, is late or was lost hides nothing, and is counted."""
    spans = [span("b", "gone", start_us=2), span("a")]

    assert tree(spans) == ["a orders", "b orders"]
    assert missing_parents(spans) == 1


def test_shared_span_stands_below_the_span_it_shares_its_id_with() -> None:
    """The server's side of a call that Zipkin's older clients report under one id, and what it caused."""
    spans = [span("c", "a", "db", 3), span("a", None, "db", 2, shared=True), span("a", None, "web")]

    assert tree(spans) == ["a web", "└─ a db", "   └─ c db"]


def test_span_stands_below_the_server_of_its_own_service() -> None:
    """Where a client has asked two servers under one id."""
    spans = [
        span("a", None, "web"),
        span("a", None, "first", 2, shared=True),
        span("a", None, "second", 3, shared=True),
        span("c", "a", "first", 4),
        span("d", "a", "web", 5),
    ]

    assert tree(spans) == ["a web", "├─ a first", "│  └─ c first", "├─ a second", "└─ d web"]


def test_deep_trace_is_shown_to_its_end() -> None:
    """A chain of any length neither exhausts the stack nor makes lines of any length."""
    shown = tree([span(f"{number}", f"{number - 1}" if number else None) for number in range(5000)])

    assert len(shown) == 5000
    assert max(map(len, shown)) < 100


ids = st.sampled_from("abcdefgh")
any_spans = st.lists(
    st.builds(
        span,
        ids,
        st.none() | ids,
        st.sampled_from(["x", "y"]),
        st.integers(1, 9),
        shared=st.none() | st.booleans(),
        name=st.sampled_from([None, "n"]),
    ),
    max_size=100,
)


@given(any_spans, st.booleans())
def test_every_span_is_in_one_row_whatever_the_parents(spans: list[Span], fold: bool) -> None:
    """Circles, double ids and spans that are their own parents neither hide a span nor hang."""
    shown = [one for row in arrange(spans, fold=fold) for one in row.spans]

    assert sorted(map(id, shown)) == sorted(map(id, spans))
