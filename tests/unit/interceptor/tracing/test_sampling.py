"""What is recorded: new traces by rate, rules and limit, as other services decide; and what is left out."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from kaspan.config.schema import Sampling, SamplingRule
from kaspan.interceptor.tracing.sampling import Sampler
from support.kafka_clients import header
from support.ring_reader import current

TRACE_IDS = st.integers(1, 2**128 - 1)
RATES = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.5, 0.1, 0.001, 1e-9, 1 - 1e-9])


@given(TRACE_IDS, RATES)
def test_decision_is_that_of_opentelemetrys_sampler(trace_id: int, rate: float) -> None:
    """For every trace id and every rate kaspan decides as TraceIdRatioBased does."""
    theirs = TraceIdRatioBased(rate).should_sample(None, trace_id, "send orders").decision.is_sampled()

    assert Sampler(Sampling(rate=rate)).is_sampled(b"%032x" % trace_id, "send", "orders") == theirs


@given(st.integers(1, 2**64 - 1), RATES)
def test_decision_for_a_64_bit_trace_is_that_of_its_low_half(low: int, rate: float) -> None:
    """Only the low 64 bits count, so a trace id decides the same with its upper half or without."""
    sampler = Sampler(Sampling(rate=rate))

    assert sampler.is_sampled(b"%016x" % low, "send", "orders") == sampler.is_sampled(
        b"ffffffffffffffff%016x" % low, "send", "orders"
    )


def sample(application: Any, count: int, topic: str = "orders") -> int:
    """Send so many records, each a trace of its own, and return how many were recorded."""
    producer = application.producer()
    for _ in range(count):
        producer.send(topic, b"value")
        producer.last.acknowledge()
    decisions = [header(appended).rpartition(b"-")[2] for appended in producer.appended]
    recorded = len(application.take())
    assert decisions.count(b"1") == recorded
    return recorded


def test_rate_is_the_share_of_traces_that_are_recorded(configured: Any) -> None:
    """At a rate of a quarter about a quarter of new traces is recorded, and each record says which."""
    recorded = sample(configured(sampling__rate=0.25), 2000)

    assert 350 < recorded < 650  # eight standard deviations


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0), (1.0, 500)])
def test_rate_of_nothing_and_of_everything_are_exact(configured: Any, rate: float, expected: int) -> None:
    """No trace at 0, every trace at 1."""
    assert sample(configured(sampling__rate=rate), 500) == expected


def test_decision_made_at_the_root_holds_for_the_whole_trace(configured: Any) -> None:
    """What is sent while a record is in work is recorded exactly if the record is."""
    application = configured(sampling__rate=0.5)
    producer = application.producer()
    for _ in application.consumer(application.records(200)):
        producer.send("shipments", b"value")
        producer.last.acknowledge()

    spans = application.take()

    processed = {span.trace_id for span in spans if span.kind == "CONSUMER"}
    sent = {span.trace_id for span in spans if span.kind == "PRODUCER"}
    assert processed == sent
    assert 0 < len(processed) < 200


RULES = (
    SamplingRule(topic="audit.secret", rate=0.0),
    SamplingRule(topic="audit.*", operation="receive", rate=1.0),
    SamplingRule(topic="noise", rate=0.0),
)


@pytest.mark.parametrize(
    ("operation", "topic", "expected"),
    [
        ("receive", "audit.log", True),
        ("send", "audit.log", False),
        ("receive", "audit.secret", False),
        ("receive", "audit", False),
        ("send", "noise", False),
        ("send", "noisey", False),
    ],
)
def test_first_rule_that_matches_decides(operation: Any, topic: str, expected: bool) -> None:
    """Rules are asked in order by topic and operation; where none matches, the rate decides."""
    sampler = Sampler(Sampling(rate=0.0, rules=RULES))

    for _ in range(2):  # the answer is kept
        assert sampler.is_sampled(b"f" * 32, operation, topic) is expected


def test_rule_that_matches_none_leaves_the_rate(configured: Any) -> None:
    """A topic that no rule names is recorded by the rate."""
    application = configured(sampling__rate=1.0, sampling__rules=[{"topic": "audit.*", "rate": 0.0}])

    assert (sample(application, 20), sample(application, 20, "audit.log")) == (20, 0)


def test_rule_for_receiving_does_not_touch_sending(configured: Any) -> None:
    """`operation: receive` is about traces that start with a received record."""
    rule = {"topic": "orders", "operation": "receive", "rate": 0.0}
    application = configured(sampling__rules=[rule])

    for _ in application.consumer(application.records(5)):
        pass

    assert application.take() == []
    assert sample(application, 5) == 5


def test_rule_does_not_override_a_decision_that_came_with_a_record(configured: Any) -> None:
    """Rules are for new traces; a received decision is kept."""
    application = configured(sampling__rules=[{"topic": "*", "rate": 0.0}])
    context = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"
    for _ in application.consumer([application.record(headers=[("b3", context)])]):
        pass

    assert len(application.take()) == 1


class Clock:
    """A monotonic clock that stands still until it is set."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def count_sampled(sampler: Sampler, count: int) -> int:
    return sum(sampler.is_sampled(b"0" * 31 + b"1", "send", "orders") for _ in range(count))


def test_limit_is_so_many_traces_a_second() -> None:
    """Of all the traces of one second as many as allowed are recorded, and in the next as many again."""
    clock = Clock()
    sampler = Sampler(Sampling(max_traces_per_s=10), clock)

    first = count_sampled(sampler, 100)
    clock.now_s += 1
    second = count_sampled(sampler, 100)
    clock.now_s += 3600
    later = count_sampled(sampler, 4)

    assert (first, second, later) == (10, 10, 4)


def test_limit_below_one_a_second_is_one_in_so_many_seconds() -> None:
    """A limit of a tenth is one trace in ten seconds."""
    clock = Clock()
    sampler = Sampler(Sampling(max_traces_per_s=0.1), clock)
    taken = []
    for _ in range(100):
        taken.append(count_sampled(sampler, 3))
        clock.now_s += 1

    assert sum(taken) == 10
    assert max(taken) == 1


def test_limit_does_not_count_what_the_rate_leaves_out() -> None:
    """Only traces that the rate lets through use up the limit."""
    sampler = Sampler(Sampling(rate=0.5, max_traces_per_s=5), Clock())
    refused = sum(sampler.is_sampled(b"f" * 32, "send", "orders") for _ in range(100))

    assert (refused, count_sampled(sampler, 100)) == (0, 5)


def test_excluded_topic_is_not_recorded(configured: Any) -> None:
    """A topic of `exclude_topics` makes no span, sent or received, by loop or by poll."""
    application = configured(exclude_topics=["audit.*", "noise"])
    producer = application.producer()
    for topic in ("audit.log", "noise", "orders"):
        producer.send(topic, b"value")
        producer.last.acknowledge()
        for _ in application.consumer([application.record(topic=topic)]):
            assert (current() is None) == (topic != "orders")
        consumer = application.consumer([application.record(topic=topic)])
        consumer.poll()
        consumer.close()

    names = [span.name for span in application.take()]

    assert names == ["send orders", "process orders", "poll orders"]


def test_context_passes_through_an_excluded_topic(configured: Any) -> None:
    """What is sent to an excluded topic carries the context it is sent in, of a span that exists."""
    application = configured(exclude_topics=["audit.*"])
    producer = application.producer()
    for _ in application.consumer([application.record()]):
        producer.send("audit.log", b"value", headers=[("tenant", b"7")])
        producer.last.acknowledge()

    (span,) = application.take()

    assert producer.last.headers == [("tenant", b"7"), ("b3", f"{span.trace_id}-{span.id}-1".encode())]


def test_headers_pass_through_an_excluded_topic(configured: Any) -> None:
    """Headers with a context are passed on as they are where nothing else is in scope."""
    application = configured(exclude_topics=["audit.*"])
    producer = application.producer()
    headers = [("tenant", b"7"), ("b3", b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1")]
    producer.send("audit.log", b"value", headers=headers)

    assert producer.last.headers == headers


def test_send_in_the_loop_of_an_excluded_topic_continues_its_senders_trace(configured: Any) -> None:
    """Nothing is recorded of an excluded topic, and its records' trace goes on in what is sent for them."""
    application = configured(exclude_topics=["audit.*"])
    producer = application.producer()
    context = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"
    for _ in application.consumer([application.record(topic="audit.log", headers=[("b3", context)])]):
        producer.send("orders", b"value")
        producer.last.acknowledge()

    (span,) = application.take()

    assert (span.trace_id, span.parent_id) == ("463ac35c9f6413ad48485a3953bb6124", "a2fb4a1d1a96d312")


def test_span_in_the_loop_of_an_excluded_topic_can_be_printed(configured: Any) -> None:
    """The current span shows whose it is to an application that logs it."""
    application = configured(exclude_topics=["audit.*"])
    context = b"463ac35c9f6413ad48485a3953bb6124-a2fb4a1d1a96d312-1"
    consumer = application.consumer([application.record(topic="audit.log", headers=[("b3", context)])])

    (shown,) = [repr(trace.get_current_span()) for _ in consumer]

    assert "463ac35c9f6413ad48485a3953bb6124" in shown


def test_topics_of_kafka_itself_are_excluded(application: Any) -> None:
    """By default topics that begin with two underscores, such as __consumer_offsets, make no spans."""
    producer = application.producer()
    producer.send("__consumer_offsets", b"value")
    producer.last.acknowledge()

    assert application.take() == []


def test_captured_headers_are_tags(configured: Any) -> None:
    """Headers that `capture_headers` names are tags of both spans, if they are text; others are not."""
    application = configured(capture_headers=["tenant", "x-*"])
    headers = [
        ("tenant", b"7"),
        ("x-region", "Zürich".encode()),
        ("x-binary", b"\xff"),
        ("secret", b"1"),
        ("x-long", b"x" * 1000),
    ]
    producer = application.producer()
    producer.send("orders", b"value", headers=headers)
    producer.last.acknowledge()
    for _ in application.consumer([application.record(headers=[*headers, ("x-null", None)])]):
        pass

    for span in application.take():
        captured = {key: value for key, value in span.tags.items() if key.startswith("messaging.header.")}
        assert captured == {
            "messaging.header.tenant": "7",
            "messaging.header.x-region": "Zürich",
            "messaging.header.x-long": "x" * 256,
        }


def test_no_header_is_a_tag_unless_it_is_asked_for(application: Any) -> None:
    """Headers are the application's own business."""
    for _ in application.consumer([application.record(headers=[("tenant", b"7")])]):
        pass

    assert not any("tenant" in tag for tag in application.take()[0].tags)


def test_loop_over_an_excluded_topic_leaves_the_record_around_it_current(configured: Any) -> None:
    """After an inner loop of which nothing is recorded, the outer record is current as before."""
    application = configured(exclude_topics=["noise"])
    for _ in application.consumer(application.records(1)):
        outer_span = current()
        for _ in application.consumer(application.records(2, topic="noise")):
            pass
        assert current() == outer_span

    assert len(application.take()) == 1
