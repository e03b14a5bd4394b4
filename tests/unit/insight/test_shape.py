"""Shapes: what a trace looks like without its times and ids."""

from __future__ import annotations

import random

from hypothesis import given

from kaspan.insight.shape import MAX_DEPTH, shape
from kaspan.wire.span import Span
from support.flow_spans import any_traces, process, send, span, tree


def test_shape_is_the_tree_of_service_kind_and_name() -> None:
    """Each branch is a line under its parent's."""
    spans = (
        send(1, None, 0, 1, 2, service="orders", name="send orders"),
        process(2, 1, 5, 5, service="shipping", name="process orders"),
        span(3, 2, None, 6, 1, service="shipping"),
    )

    assert shape(tree(*spans)).text == (
        "orders PRODUCER send orders\n  shipping CONSUMER process orders\n    shipping - -"
    )


def test_batches_of_about_the_same_size_have_one_shape() -> None:
    """Equal branches are counted by powers of two: 5 and 7 records are alike, 5 and 9 are not."""

    def batch(records: int) -> str:
        root = process(1, None, 0, 50, service="a", name="batch")
        return shape(
            tree(root, *(send(2 + n, 1, n, 1, 2, service="a", name="send") for n in range(records)))
        ).hash

    assert batch(5) == batch(7)
    assert batch(5) != batch(9)
    assert batch(1) != batch(2)


@given(any_traces())
def test_shape_does_not_depend_on_order_ids_or_times(spans: list[Span]) -> None:
    """The same tree with other times has the same shape and hash."""
    before = shape(tree(*spans))
    # Spans without a parent compete for the root by their ids.
    shuffled = random.Random(1).sample(spans, len(spans))
    for one in shuffled:
        if one.timestamp:
            one.timestamp += 1_000_000

    assert shape(tree(*shuffled)) == before


def test_depth_of_a_shape_is_bounded() -> None:
    """An endless chain is cut off at MAX_DEPTH."""
    chain = [span(1, None, None, 0, 1), *(span(n, n - 1, None, n, 1) for n in range(2, 10_000))]

    assert len(shape(tree(*chain)).text.splitlines()) == MAX_DEPTH
