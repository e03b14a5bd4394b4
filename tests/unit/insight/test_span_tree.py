"""A trace as a tree. tests/integration/test_zipkin_classes.py compares it with Zipkin's own."""

from __future__ import annotations

from kaspan.insight.span_tree import build_tree
from kaspan.insight.trace import clean_trace
from kaspan.wire.span import Span
from support.spans import span


def parents_of(spans: list[Span]) -> list[tuple[str, str | None]]:
    """Return each span's name, breadth first, with its parent's; a parent that is missing is called "?"."""
    return [
        (node.span.name or "", parent and (parent.span.name or "" if parent.span else "?"))
        for node, parent in build_tree(clean_trace(reversed(spans))).traverse()
        if node.span is not None
    ]


def test_tree_is_read_breadth_first() -> None:
    """Children come after all spans of their parent's level, whatever the order of the spans."""
    spans = [span(name, parent, name=name) for name, parent in zip("abcdefg", [None, *"aabbbe"], strict=True)]
    assert parents_of(spans) == list(zip("abcdefg", [None, *"aabbbe"], strict=True))


def test_children_are_in_the_order_of_their_timestamps() -> None:
    """The earliest child is the first; those without a timestamp come before it."""
    spans = [span("1", name="root")]
    spans += [span(key, "1", name=key, timestamp=us) for key, us in (("a", 2), ("b", 1), ("c", None))]
    assert parents_of(spans)[1:] == [("c", "root"), ("b", "root"), ("a", "root")]


def test_server_that_shares_its_clients_id_is_the_clients_child() -> None:
    """With one id for both sides of a call, what the server did hangs from the server."""
    spans = [
        span("a", name="root"),
        span("b", "a", name="client"),
        span("b", "a", name="server", shared=True),
        span("c", "b", name="inside"),
    ]
    assert parents_of(spans) == [
        ("root", None),
        ("client", "root"),
        ("server", "client"),
        ("inside", "server"),
    ]


def test_spans_inside_servers_with_one_id_hang_from_their_own() -> None:
    """Where two servers got the same span id, the endpoint tells whose child a span is."""
    spans = [span("a", name="root"), span("b", "a", name="client")]
    spans += [span("b", "a", name=name, local=name, shared=True) for name in ("bar", "foo")]
    spans += [span("c", "b", name="in bar", local="bar"), span("d", "b", name="in foo", local="foo")]
    assert parents_of(spans)[2:] == [
        ("bar", "client"),
        ("foo", "client"),
        ("in bar", "bar"),
        ("in foo", "foo"),
    ]


def test_further_roots_are_children_of_the_first() -> None:
    """No span is lost because it does not know its parent."""
    spans = [span(key, name=key) for key in "bef"] + [span("c", "b", name="c"), span("d", "9", name="d")]
    assert sorted(parents_of(spans)) == [("b", None), ("c", "b"), ("d", "b"), ("e", "b"), ("f", "b")]


def test_trace_without_a_root_has_a_root_without_a_span() -> None:
    """Spans whose parents are missing are children of a root that has no span."""
    spans = [span(key, "a", name=key) for key in "bcd"]
    assert build_tree(clean_trace(spans)).span is None
    assert parents_of(spans) == [(key, "?") for key in "bcd"]


def test_spans_in_a_circle_are_left_out() -> None:
    """Spans that are each other's parents have no place in the tree, and do not hinder the others."""
    spans = [
        span("a", name="a"),
        span("b", "c", name="b"),
        span("c", "b", name="c"),
        span("d", "c", name="d"),
    ]
    assert parents_of(spans) == [("a", None)]


def test_chain_of_100_000_spans_is_a_tree() -> None:
    """The depth of a trace is not limited, neither when it is made nor when it is freed."""
    count = 100_000
    spans = [span(f"{number:x}", f"{number - 1:x}" if number > 1 else None) for number in range(1, count + 1)]
    assert sum(1 for _ in build_tree(clean_trace(spans)).traverse()) == count
