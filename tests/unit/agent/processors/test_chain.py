"""kaspan.agent.processors.chain: all processors over the spans of a batch."""

from __future__ import annotations

import json
import logging
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.processors.base import Processor, Verdict
from kaspan.agent.processors.build import build
from kaspan.agent.processors.chain import Chain, Tally
from kaspan.config.schema import AddTags, Drop, Redact, RenameRemote
from kaspan.config.schema import Processor as Settings
from kaspan.wire.span import Span
from support.span_strategies import SPANS, TEXT, is_valid, written

MARK = "s3cret-4711"
PLAIN = b'{"traceId": "1", "id": "2", "name":"a", "tags":{"b": "c"}}'
NO_SPANS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"traceId":"1"}',
    b'{"traceId":"1","id":"2"',
    b'{"traceId":1,"id":2}',
    b"\xff",
]
ACTIONS = st.sampled_from(["mask", "hash", "drop"])
CHAINS: st.SearchStrategy[list[Settings]] = st.lists(
    st.one_of(
        st.builds(AddTags, tags=st.dictionaries(TEXT, st.text("ab", max_size=3), min_size=1, max_size=3)),
        st.builds(Redact, tags=st.just(("*o*",)), action=ACTIONS, hash_secret=st.just("x")),
        st.builds(Redact, values=st.just(("[0-9a-f]+", "^k")), action=ACTIONS, hash_secret=st.just("x")),
        st.builds(RenameRemote),
        st.builds(Drop, services=st.just(("order*",))),
    ),
    min_size=1,
    max_size=4,
)


class Failing(Processor):
    """Fails on spans named `bad`, quoting what is in them."""

    type = "failing"

    def __init__(self, is_guard: bool) -> None:
        self.is_guard = is_guard

    def process(self, span: Span) -> Verdict:
        if span.name == "bad":
            raise RuntimeError(MARK)
        return Verdict.KEPT


def process(chain: Chain, *spans: bytes) -> list[bytes]:
    tally = Tally()
    processed = chain.process(spans, tally)
    chain.count(tally)
    return processed


def chain_of(*settings: Settings) -> Chain:
    return build(settings, {})


def named(name: str) -> bytes:
    return b'{"traceId":"1","id":"2","name":"%s"}' % name.encode()


def tags_of(payload: bytes) -> dict[str, str]:
    tags: dict[str, str] = json.loads(payload)["tags"]
    return tags


def test_span_that_nothing_changed_keeps_its_bytes() -> None:
    """Spaces, the order of keys and what Zipkin does not know stay when no processor had anything to do."""
    odd = b'{"id": "2", "new":[1], "traceId": "1", "timestamp": "5"}'
    assert process(chain_of(RenameRemote(), Drop(topics=("x",))), odd, PLAIN) == [odd, PLAIN]


def test_only_changed_spans_are_written_anew() -> None:
    """The other spans of a batch keep their bytes."""
    tagged = b'{"traceId": "1", "id": "3", "tags":{"host": "a"}}'
    first, second = process(chain_of(AddTags(tags={"host": "a"})), PLAIN, tagged)
    assert json.loads(first) == {"traceId": "1", "id": "2", "name": "a", "tags": {"b": "c", "host": "a"}}
    assert second == tagged


@pytest.mark.parametrize(
    "hidden",
    [
        b'{"traceId":"1","id":"2","tags":{"a":"%s"},"tags":{"a":"b"}}',
        b'{"traceId":"1","id":"2","tags":{"a":"%s","a":"b"}}',
        b'{"traceId":"1","id":"2","note":"%s"}',
        b'{"traceId":"1","id":"2","localEndpoint":{"note":"%s"}}',
    ],
)
def test_nothing_slips_past_redaction_in_what_it_does_not_see(hidden: bytes) -> None:
    """A key given twice and a key that Zipkin does not know are gone once there is a redact processor."""
    (kept,) = process(chain_of(Redact(values=("s3cret.*",))), hidden % MARK.encode())
    assert MARK.encode() not in kept


def test_processors_run_in_the_order_of_the_settings() -> None:
    """A tag that was added is redacted after, and not before."""
    add, hide = AddTags(tags={"host": "a"}), Redact(tags=("host",))
    assert tags_of(process(chain_of(add, hide), PLAIN)[0])["host"] == "***"
    assert tags_of(process(chain_of(hide, add), PLAIN)[0])["host"] == "a"


def test_dropped_span_is_seen_by_no_later_processor() -> None:
    """A span that is dropped is over: what would fail on it later does not."""
    chain = Chain([*chain_of(Drop(names=("bad",)))._processors, Failing(is_guard=False)])
    assert process(chain, named("bad"), named("good")) == [named("good")]
    assert chain.total == Tally(dropped=chain.total.dropped)
    assert chain.total.dropped == {"drop": 1}


def test_failing_processor_passes_the_span_and_stops_nobody() -> None:
    """Others' spans and later processors go on; the failure is counted by the processor's type."""
    chain = Chain([Failing(is_guard=False), *chain_of(AddTags(tags={"host": "a"}))._processors])
    bad, good = process(chain, named("bad"), named("good"))
    assert tags_of(bad) == tags_of(good) == {"host": "a"}
    assert (dict(chain.total.failed), dict(chain.total.refused)) == ({"failing": 1}, {})


def test_span_that_a_guard_fails_on_is_dropped_and_counted() -> None:
    """What could not be redacted is not stored; the rest of the batch is."""
    chain = Chain([Failing(is_guard=True)])
    assert process(chain, named("bad"), named("good")) == [named("good")]
    assert (dict(chain.total.failed), dict(chain.total.refused)) == ({}, {"failing": 1})


@pytest.mark.parametrize("is_guard", [False, True])
def test_failure_is_said_once_without_quoting_the_span(
    caplog: pytest.LogCaptureFixture, is_guard: bool
) -> None:
    """The log names processor and error, once, and nothing that was in the span."""
    with caplog.at_level(logging.DEBUG, "kaspan.agent"):
        process(Chain([Failing(is_guard)]), named("bad"), named("bad"), b'"%s' % MARK.encode())
    assert MARK not in caplog.text
    became = "dropped, since it cannot be redacted" if is_guard else "passed on unchanged"
    assert [record.getMessage() for record in caplog.records] == [
        f"agent.processors: a span is {became}: failing (RuntimeError); later ones are only counted",
        f"agent.processors: a span is {became}: unreadable (it is not JSON); later ones are only counted",
    ]


@pytest.mark.parametrize("junk", NO_SPANS)
def test_what_is_no_span_passes_unless_it_had_to_be_redacted(junk: bytes) -> None:
    """An item that is not a span: Zipkin refuses it without redaction; with redaction it is dropped here."""
    plain, guarded = chain_of(AddTags(tags={"a": "b"})), chain_of(Redact(tags=("x",)))
    assert process(plain, junk) == [junk]
    assert plain.total.failed == {"unreadable": 1}
    assert process(guarded, junk, PLAIN) == [msgspec.json.encode(msgspec.json.decode(PLAIN, type=Span))]
    assert guarded.total.refused == {"unreadable": 1}


def test_span_is_read_as_zipkin_reads_it() -> None:
    """Numbers in quotes, tags that are numbers, and nulls are what Zipkin makes of them."""
    lenient = b'{"traceId":"1","id":"2","timestamp":"5","name":null,"annotations":null,"tags":{"a":-1.50}}'
    (redacted,) = process(chain_of(Redact(tags=("x",))), lenient)
    assert json.loads(redacted) == {"traceId": "1", "id": "2", "timestamp": 5, "tags": {"a": "-1.50"}}


def test_drops_are_counted_when_they_are_final() -> None:
    """Spans that are processed again, since the spool was full, are not counted twice."""
    chain = chain_of(Drop(names=("bad",)))
    chain.process([named("bad")], Tally())
    assert not chain.total.dropped
    process(chain, named("bad"))
    assert chain.total.dropped == {"drop": 1}


def test_batch_is_processed_span_by_span() -> None:
    """A batch's spans are taken apart, and none is left of a batch whose spans are all dropped."""
    chain, tally = chain_of(Drop(names=("bad",))), Tally()
    body = named("bad") + b" , " + named("good") + SEPARATOR + PLAIN
    assert chain.process_batch(Batch(3, body), tally) == [Batch(2, named("good") + SEPARATOR + PLAIN)]
    assert chain.process_batch(Batch(1, named("bad")), tally) == []
    assert tally.dropped == {"drop": 2}


@given(settings=CHAINS, spans=st.lists(SPANS, min_size=1, max_size=4))
def test_valid_spans_stay_valid_whatever_the_chain(
    settings: list[Settings], spans: list[dict[str, Any]]
) -> None:
    """Any spans that Zipkin takes come out as spans that Zipkin takes, or are dropped by rule and counted."""
    chain = chain_of(*settings)
    payloads = [written(span) for span in spans]
    assert all(map(is_valid, payloads))
    processed = process(chain, *payloads)
    assert all(map(is_valid, processed))
    assert len(processed) + chain.total.dropped.total() == len(spans)
    assert not chain.total.failed
    assert not chain.total.refused


@given(spans=st.lists(SPANS, max_size=4))
def test_what_no_processor_is_about_is_not_changed(spans: list[dict[str, Any]]) -> None:
    """Ids, times, kind, endpoints, flags and all tags are written anew as Zipkin would read them."""
    processed = process(chain_of(Redact(tags=("no such tag",))), *map(written, spans))
    for before, after in zip(spans, map(json.loads, processed), strict=True):
        assert after == normal(before)


def normal(span: dict[str, Any]) -> dict[str, Any]:
    """What Zipkin reads: no nulls, no empty collections, text in tags, numbers where numbers belong."""
    seen = {key: value for key, value in span.items() if key != "unknown" and value not in (None, [])}
    for side in ("localEndpoint", "remoteEndpoint"):
        if side in seen:
            seen[side] = {key: value for key, value in seen[side].items() if value is not None}
    if "timestamp" in seen:
        seen["timestamp"] = int(seen["timestamp"])
    seen["tags"] = {key: str(value) for key, value in seen.get("tags", {}).items()}
    return {key: value for key, value in seen.items() if key != "tags" or value}
