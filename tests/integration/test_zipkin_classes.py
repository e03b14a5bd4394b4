"""What a trace is and says, beside Zipkin's own classes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings

from kaspan.insight.links import DependencyLinker
from kaspan.insight.span_tree import build_tree
from kaspan.insight.trace import clean_trace
from kaspan.store.normal_form import decode_spans
from kaspan.wire.span import Span
from servers.jars import fetch_jars
from servers.zipkin_classes import ZipkinClasses
from support.trace_strategies import TRACES

EXAMPLES = 1000


@pytest.fixture(scope="module")
def zipkin_classes(
    started_servers: object, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ZipkinClasses]:
    """Start Zipkin's classes, where there is what they need; `started_servers` says it if not."""
    classes = ZipkinClasses(fetch_jars(), tmp_path_factory.mktemp("classes"))
    yield classes
    classes.stop()


def tree_of(spans: list[Span]) -> list[list[Any]]:
    """Return a trace's spans, breadth first, each with the index of its parent."""
    found: list[list[Any]] = []
    indexes: dict[int, int] = {}
    for node, parent in build_tree(clean_trace(spans)).traverse():
        indexes[id(node)] = len(found)
        found.append([indexes.get(id(parent), -1), node.span])
    return found


def names(link: dict[str, Any]) -> tuple[str, str]:
    return link["parent"], link["child"]


def as_json(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


@settings(max_examples=EXAMPLES)
@given(trace=TRACES)
def test_trace_is_cleaned_up_made_a_tree_and_linked_as_by_zipkin(
    zipkin_classes: ZipkinClasses, trace: list[dict[str, Any]]
) -> None:
    """Any trace, however broken, has the same spans, tree and links as in Zipkin."""
    cleaned, tree, links = zipkin_classes.ask(trace)
    spans = decode_spans(msgspec.json.encode(trace)[1:-1])
    assert as_json(clean_trace(spans)) == cleaned
    assert as_json(tree_of(spans)) == tree
    assert sorted(as_json(DependencyLinker().put_trace(spans).link()), key=names) == sorted(links, key=names)
