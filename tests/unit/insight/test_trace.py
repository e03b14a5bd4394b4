"""Cleaning up a trace. tests/integration/test_zipkin_classes.py compares it with Zipkin's own."""

from __future__ import annotations

from kaspan.insight.trace import clean_trace
from kaspan.wire.span import Annotation
from support.spans import span

FRONTEND = span("a", kind="SERVER", local="frontend")


def test_shared_span_without_a_parent_gets_that_of_its_client() -> None:
    """A server that goes on with its client's span may not know the parent: the client does."""
    client = span("b", "a", "CLIENT", local="frontend")
    server = span("b", None, "SERVER", local="backend", shared=True)
    known = span("b", "a", "SERVER", local="backend", shared=True)
    assert clean_trace([server, client, FRONTEND]) == [FRONTEND, client, known]


def test_server_with_its_clients_id_shares_it_also_if_it_does_not_say_so() -> None:
    """A server's span after a client's with the same id, at another service, is marked as shared."""
    client = span("b", "a", "CLIENT", local="frontend", ip="1.2.3.4")
    server = span("b", "a", "SERVER", local="backend", ip="5.6.7.8")
    marked = span("b", "a", "SERVER", local="backend", ip="5.6.7.8", shared=True)
    assert clean_trace([server, client, FRONTEND]) == [FRONTEND, client, marked]


def test_longest_trace_id_is_that_of_all_spans() -> None:
    """A service that cuts trace ids to 64 bits does not make two traces of one."""
    long_id = "7180c278b62e8f6a216a2aea45d08fc9"
    spans = [
        span("a", trace_id=long_id[16:]),
        span("b", "a", trace_id=long_id),
        span("c", "a", trace_id=long_id[16:]),
    ]
    assert [item.trace_id for item in clean_trace(spans)] == [long_id] * 3
    assert spans[0].trace_id == long_id[16:]


def test_pieces_of_a_span_are_one() -> None:
    """Pieces with one id, of one service or none, are merged: the first value counts, of a tag the last."""
    pieces = [
        span("b", "a", timestamp=1, tags={"x": "1", "y": "1"}, annotations=[Annotation(3, "late")]),
        span("b", duration=10, timestamp=2, tags={"x": "2"}, annotations=[Annotation(1, "early")]),
        span("b", None, "CLIENT", local="frontend", remote="backend"),
    ]
    whole = span("b", "a", "CLIENT", local="frontend", remote="backend", timestamp=1, duration=10)
    whole.tags, whole.annotations = {"x": "2", "y": "1"}, [Annotation(1, "early"), Annotation(3, "late")]
    assert clean_trace(pieces) == [whole]


def test_endpoint_in_pieces_is_one() -> None:
    """A local endpoint of which one piece has the name and another the address is the same endpoint."""
    pieces = [
        span("b", "a", "CLIENT", local="frontend"),
        span("b", "a", "CLIENT", ip="1.2.3.4"),
        span("b", "a", "SERVER", ip="1.2.3.5", shared=True),
        span("b", "a", "SERVER", local="backend", shared=True),
    ]
    assert clean_trace(pieces) == [
        span("b", "a", "CLIENT", local="frontend", ip="1.2.3.4"),
        span("b", "a", "SERVER", local="backend", ip="1.2.3.5", shared=True),
    ]


def test_servers_at_two_addresses_that_share_an_id_stay_two() -> None:
    """A proxy that tries again gives two servers the same span id: both are kept."""
    servers = [span("b", "a", "SERVER", local="backend", ip=ip, shared=True) for ip in ("1.2.3.4", "1.2.3.5")]
    late = span("b", "a", "CLIENT", local="frontend", duration=10)
    client = span("b", "a", "CLIENT", local="frontend", timestamp=1)
    whole = span("b", "a", "CLIENT", local="frontend", timestamp=1, duration=10)
    assert clean_trace([client, servers[1], servers[0], late]) == [whole, *servers]


def test_data_without_an_endpoint_goes_to_the_first_span_with_its_id() -> None:
    """What does not say where it is from belongs to the client, not to the servers that share its id."""
    spans = [
        span("b", "a", "SERVER", local="backend", shared=True),
        span("b", duration=10),
        span("b", "a", local="web"),
    ]
    assert clean_trace(spans) == [span("b", "a", local="web", duration=10), spans[0]]


def test_spans_are_not_changed_and_may_be_none() -> None:
    """What comes in stays as it is."""
    spans = [span("b", local="web", timestamp=1), span("b", "a", local="web", duration=3)]
    before = [span("b", local="web", timestamp=1), span("b", "a", local="web", duration=3)]
    clean_trace(spans)
    assert spans == before
    assert clean_trace([]) == []
