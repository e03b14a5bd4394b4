"""Counting links. tests/integration/test_zipkin_classes.py compares it with Zipkin's own."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.insight.links import DependencyLink, DependencyLinker
from kaspan.insight.span_tree import build_tree
from kaspan.insight.trace import clean_trace
from kaspan.wire.span import Annotation, Span
from support.spans import span

Counts = dict[tuple[str, str], tuple[int, int]]


def counts_of(*traces: list[Span]) -> Counts:
    """Return calls and errors by parent and child."""
    linker = DependencyLinker()
    for trace in traces:
        linker.put_trace(trace)
    return {(link.parent, link.child): (link.call_count, link.error_count) for link in linker.link()}


def without_self_references(spans: list[Span]) -> list[Span]:
    """Bring spans into normal form: none is its own parent."""
    for item in spans:
        item.parent_id = None if item.parent_id == item.id else item.parent_id
    return spans


RPC = [
    span("a", None, "CLIENT", local="web", timestamp=1),
    span("a", None, "SERVER", local="app", timestamp=2, shared=True),
    span("b", "a", "CLIENT", local="app", remote="db", timestamp=3, error=True),
]
REPORTED = {("web", "app"): (1, 0), ("app", "db"): (1, 1)}

CASES: dict[str, tuple[list[Span], Counts]] = {
    "no spans": ([], {}),
    "client and server share an id": (RPC, REPORTED),
    "last spans came first": (RPC[::-1], REPORTED),
    "client of a server that is known": (
        [span("a", None, "CLIENT", local="web", remote="?"), span("b", "a", "SERVER", local="app")],
        {("web", "app"): (1, 0)},
    ),
    "error of the client only": (
        [span("a", None, "CLIENT", local="web", error=True), span("b", "a", "SERVER", local="app")],
        {("web", "app"): (1, 1)},
    ),
    "error of a client with two servers": (
        [
            span("a", None, "CLIENT", local="web"),
            span("b", "a", "SERVER", local="app", remote="web", error=True),
            span("c", "a", "SERVER", local="app", remote="web"),
        ],
        {("web", "app"): (2, 1)},
    ),
    "server at the root names its client": (
        [span("a", None, "SERVER", local="app", remote="web")],
        {("web", "app"): (1, 0)},
    ),
    "server without a client": ([span("a", None, "SERVER", local="app")], {}),
    "shared server span that does not know its parent": (
        [
            span("a", None, "SERVER", local="arn"),
            span("b", "a", "CLIENT", local="arn", remote="link"),
            span("b", None, "SERVER", local="link", remote="arn", shared=True),
        ],
        {("arn", "link"): (1, 0)},
    ),
    "clients that do not know their own name": (
        [
            span("a", None, "SERVER", local="web"),
            span("b", "a"),
            span("c", "b", "CLIENT", remote="app", error=True),
            span("d", "b", "CLIENT", remote="app"),
        ],
        {("web", "app"): (2, 1)},
    ),
    "clients that say their server's name for their own": (
        [
            span("a", None, "SERVER", local="web"),
            span("b", "a"),
            span("c", "b", "CLIENT", local="app", remote="db", error=True),
            span("d", "b", "CLIENT", local="app", remote="db"),
        ],
        {("web", "app"): (2, 0), ("app", "db"): (2, 1)},
    ),
    "service that calls itself": (
        [span("a", None, "CLIENT", local="app", remote="app")],
        {("app", "app"): (1, 0)},
    ),
    "no kind, but both names": (
        [span("a", local="web", remote="app"), span("b", "a", local="app", remote="db", error=True)],
        {("web", "app"): (1, 0), ("app", "db"): (1, 1)},
    ),
    "no kind, and one name": ([span("a", local="web")], {}),
    "annotation called error": (
        [span("a", None, "CLIENT", local="web", remote="app", annotations=[Annotation(1, "error")])],
        {("web", "app"): (1, 0)},
    ),
    "servers whose parent is missing": (
        [span("b", "a", "SERVER", local="web"), span("c", "a", "SERVER", local="app")],
        {},
    ),
    "server under a server whose parent is missing": (
        [span("b", "a", "SERVER", local="web"), span("c", "b", "SERVER", local="app")],
        {("web", "app"): (1, 0)},
    ),
    "producer and consumer of a broker": (
        [
            span("a", None, "PRODUCER", local="orders", remote="kafka", error=True),
            span("b", "a", "CONSUMER", local="shipping", remote="kafka"),
        ],
        {("orders", "kafka"): (1, 1), ("kafka", "shipping"): (1, 0)},
    ),
    "producer that does not name its broker": (
        [
            span("a", None, "PRODUCER", local="orders"),
            span("b", "a", "CONSUMER", local="shipping", remote="kafka"),
        ],
        {("kafka", "shipping"): (1, 0)},
    ),
    "producer and consumer without a broker": (
        [span("a", None, "PRODUCER", local="orders"), span("b", "a", "CONSUMER", local="shipping")],
        {},
    ),
    "client before a consumer": (
        [
            span("a", None, "CLIENT", local="web", remote="kafka"),
            span("b", "a", "CONSUMER", local="shipping"),
        ],
        {},
    ),
    "server after a producer": (
        [span("a", None, "PRODUCER", local="orders"), span("b", "a", "SERVER", local="shipping")],
        {("orders", "shipping"): (1, 0)},
    ),
    "server that shares a producer's id": (
        [
            span("a", None, "PRODUCER", local="orders"),
            span("a", None, "SERVER", local="shipping", shared=True),
        ],
        {("orders", "shipping"): (1, 0)},
    ),
    "messages in a circle": (
        [
            span("a", "b", "PRODUCER", local="orders", remote="kafka"),
            span("b", "a", "CONSUMER", local="shipping", remote="kafka"),
        ],
        {},
    ),
}


@pytest.mark.parametrize(("spans", "links"), CASES.values(), ids=CASES.keys())
def test_trace_has_the_links_of_zipkins_linker(spans: list[Span], links: Counts) -> None:
    """Each case has the links that Zipkin's own tests ask for."""
    assert counts_of(spans) == links


MESSAGES = st.lists(
    st.builds(
        span,
        st.sampled_from("123456789"),
        st.sampled_from([None, *"123456789"]),
        st.sampled_from(["PRODUCER", "CONSUMER"]),
        local=st.sampled_from(["orders", "shipping", None]),
        remote=st.sampled_from(["kafka", None]),
        timestamp=st.sampled_from([None, 1, 2, 3, 4]),
        shared=st.sampled_from([None, None, None, True]),
        error=st.booleans(),
    ),
    max_size=6,
    unique_by=lambda item: item.id,
).map(without_self_references)


@given(spans=MESSAGES)
def test_messages_have_the_same_links_with_and_without_a_tree(spans: list[Span]) -> None:
    """Messages are counted without a tree only where a tree would say the same."""
    with_tree = DependencyLinker()
    if spans:
        with_tree.put_tree(build_tree(clean_trace(spans)))
    assert set(DependencyLinker().put_trace(spans).link()) == set(with_tree.link())


def test_links_of_traces_are_added_up() -> None:
    """The same link of two traces is one link with the calls of both."""
    assert counts_of(RPC, RPC) == {("web", "app"): (2, 0), ("app", "db"): (2, 2)}


def test_link_is_written_as_by_zipkin() -> None:
    """Errors are left out of a link's JSON if there are none."""
    assert (
        msgspec.json.encode(DependencyLink("web", "app", 2))
        == b'{"parent":"web","child":"app","callCount":2}'
    )
    assert msgspec.json.encode(DependencyLink("web", "app", 2, 1)).endswith(b'"callCount":2,"errorCount":1}')
