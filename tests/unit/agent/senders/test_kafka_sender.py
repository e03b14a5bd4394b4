"""kaspan.agent.senders.kafka: what is sent to the topic, and what becomes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer
from kafka.errors import (
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    RecordListTooLargeError,
    TopicAuthorizationFailedError,
)

from kaspan.agent.batch import SEPARATOR
from kaspan.agent.senders.base import Delivered, Failed, Refused, SettingError
from kaspan.agent.senders.kafka import KafkaSender, as_list
from kaspan.config.schema import KafkaSender as Settings
from support.poison import HARMLESS, POISON
from support.ring_writer import span
from support.span_strategies import SPANS, written

INJECT = Path(__file__).parents[4] / "interceptor" / "inject"


class FakeProducer:
    """Replaces kafka-python's producer; raises what the test says, where the test says."""

    DEFAULT_CONFIG: ClassVar[dict[str, Any]] = KafkaProducer.DEFAULT_CONFIG
    made: ClassVar[list[FakeProducer]] = []
    connect_error: ClassVar[Exception | None] = None
    send_error: ClassVar[Exception | None] = None
    ack_error: ClassVar[Exception | None] = None
    close_error: ClassVar[Exception | None] = None
    is_forced = False

    def __init__(self, **config: Any) -> None:
        if self.connect_error is not None:
            raise self.connect_error
        self.config = config
        self.sent: list[tuple[str, bytes, list[tuple[str, bytes]]]] = []
        self.unacknowledged = 0
        self.closed_with: float | None = None
        self.made.append(self)

    def send(self, topic: str, value: bytes, headers: list[tuple[str, bytes]]) -> FakeProducer:
        if self.send_error is not None:
            raise self.send_error
        self.sent.append((topic, value, headers))
        self.unacknowledged += 1
        assert self.unacknowledged == 1
        return self

    def get(self, timeout: float) -> None:
        assert timeout
        self.unacknowledged -= 1
        if self.ack_error is not None:
            raise self.ack_error

    def close(self, timeout: float) -> None:
        if self.close_error is not None and not self.is_forced:
            raise self.close_error
        self.closed_with = timeout

    @property
    def _sender(self) -> FakeProducer:
        return self

    def force_close(self) -> None:
        self.is_forced = True

    def join(self, timeout: float) -> None:
        assert self.is_forced


@pytest.fixture
def producer() -> type[FakeProducer]:
    """Give a class of producers of this test alone."""

    class Own(FakeProducer):
        made: ClassVar[list[FakeProducer]] = []

    return Own


def sender_of(producer: Callable[..., Any], **settings: Any) -> KafkaSender:
    return KafkaSender(Settings(**settings), producer)


def test_spans_are_one_message_of_the_topic_that_nobody_traces(producer: type[FakeProducer]) -> None:
    """A JSON list, byte for byte, with b3 of 0: a traced reader must not make spans of reports."""
    sender = sender_of(producer, topic="spans")
    assert sender.send(span(1) + b",\n" + span(2), 1) == Delivered()
    (made,) = producer.made
    assert made.sent == [("spans", b"[" + span(1) + b",\n" + span(2) + b"]", [("b3", b"0")])]
    assert made.unacknowledged == 0


def test_message_is_safe_on_all_replicas_and_repeated_by_nobody_else(producer: type[FakeProducer]) -> None:
    """All replicas acknowledge, one message is on its way at a time, and retrying is the agent's alone."""
    sender_of(producer, bootstrap_servers=("a:1", "b:2")).send(span(1), 1)
    config = producer.made[0].config
    assert config["bootstrap_servers"] == ["a:1", "b:2"]
    assert (config["acks"], config["retries"], config["max_in_flight_requests_per_connection"]) == (
        "all",
        0,
        1,
    )
    assert config["client_id"] == "kaspan-agent"
    assert set(config) <= set(KafkaProducer.DEFAULT_CONFIG)


def test_only_what_the_installed_kafka_python_knows_is_given_to_it() -> None:
    """Old ones refuse what they do not know; a setting of the user's that they lack is an error."""

    class Old(FakeProducer):
        made: ClassVar[list[FakeProducer]] = []
        DEFAULT_CONFIG: ClassVar[dict[str, Any]] = {"bootstrap_servers": None, "security_protocol": None}

    with pytest.raises(SettingError) as refused:
        sender_of(Old, ssl_crlfile="/crl.pem")
    assert refused.value.key == "ssl_check_hostname"

    class Older(Old):
        DEFAULT_CONFIG: ClassVar[dict[str, Any]] = {**Old.DEFAULT_CONFIG, "ssl_check_hostname": None}

    sender_of(Older).send(span(1), 1)
    assert set(Old.made[0].config) == {"bootstrap_servers", "security_protocol", "ssl_check_hostname"}


def test_security_settings_are_passed_on(producer: type[FakeProducer]) -> None:
    """kafka-python's own names, as they are; those that are not set are left to it."""
    given_settings = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "me",
        "sasl_plain_password": "secret",
        "ssl_cafile": "/ca.pem",
        "ssl_check_hostname": False,
    }
    sender_of(producer, **given_settings).send(span(1), 1)
    config = producer.made[0].config
    passed_on = {name: value for name, value in config.items() if name.startswith(("s", "ssl"))}
    assert passed_on == given_settings


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
def test_span_for_which_zipkin_would_drop_a_message_is_refused(
    producer: type[FakeProducer], poison: bytes
) -> None:
    """Kafka accepts anything, but Zipkin drops a whole message for one bad span."""
    sender = sender_of(producer)
    for spans in (poison, SEPARATOR.join([span(1), poison, span(2)])):
        outcome = sender.send(spans, 1)
        assert isinstance(outcome, Refused)
        assert outcome.reason.startswith("Zipkin would refuse it: ")
    assert producer.made == []
    assert sender.send(SEPARATOR.join(HARMLESS), 2) == Delivered()


@pytest.mark.parametrize("error", [MessageSizeTooLargeError("x"), RecordListTooLargeError("x")])
@pytest.mark.parametrize("where", ["send_error", "ack_error"])
def test_message_that_is_too_large_is_refused_so_that_it_is_split(
    producer: type[FakeProducer], error: Exception, where: str
) -> None:
    """Before it is sent, or by the broker; the producer goes on."""
    setattr(producer, where, error)
    sender = sender_of(producer)
    assert isinstance(sender.send(span(1), 1), Refused)
    setattr(producer, where, None)
    assert sender.send(span(2), 2) == Delivered()
    assert len(producer.made) == 1


def test_message_beyond_max_message_bytes_is_refused_without_asking(producer: type[FakeProducer]) -> None:
    """What the topic takes is known from the settings."""
    outcome = sender_of(producer, max_message_bytes=1024).send(span(1, 1024), 1)
    assert outcome == Refused("larger than max_message_bytes, 1024")
    assert producer.made == []


@pytest.mark.parametrize(
    "error",
    [
        KafkaTimeoutError("no ack"),
        NotLeaderForPartitionError("moved"),
        TopicAuthorizationFailedError("not allowed"),
        OSError("reset"),
        AssertionError("kafka-python is in a state"),
    ],
)
@pytest.mark.parametrize("where", ["send_error", "ack_error"])
def test_anything_else_is_a_failure_and_the_next_attempt_has_a_new_producer(
    producer: type[FakeProducer], error: Exception, where: str
) -> None:
    """Nothing of a failed message stays in a producer, to be sent later or to fill the memory."""
    setattr(producer, where, error)
    sender = sender_of(producer)
    outcome = sender.send(span(1), 1)
    assert isinstance(outcome, Failed)
    assert type(error).__name__ in outcome.reason
    assert producer.made[0].closed_with == 0
    setattr(producer, where, None)
    assert sender.send(span(1), 1) == Delivered()
    assert len(producer.made) == 2


def test_producer_that_cannot_be_closed_is_closed_by_force(producer: type[FakeProducer]) -> None:
    """From 2.2 on kafka-python first waits for what it cannot send, and then closes nothing at all."""
    producer.ack_error = KafkaTimeoutError("no ack")
    producer.close_error = KafkaTimeoutError("flush")
    assert isinstance(sender_of(producer).send(span(1), 1), Failed)
    assert (producer.made[0].is_forced, producer.made[0].closed_with) == (True, 0)


def test_broker_that_is_away_is_a_failure(producer: type[FakeProducer]) -> None:
    """kafka-python says so when a producer is made."""
    producer.connect_error = KafkaTimeoutError("no broker")
    assert isinstance(sender_of(producer).send(span(1), 1), Failed)


def test_secrets_are_not_in_reasons(producer: type[FakeProducer]) -> None:
    """Whatever kafka-python says."""
    producer.connect_error = ValueError("cannot use hunter22")
    outcome = sender_of(producer, sasl_plain_password="hunter22").send(span(1), 1)
    assert outcome == Failed("ValueError: cannot use ***")


@pytest.mark.parametrize("spans", [b"{garbage", b'{"traceId":"0","id":"1"}', b'{"id":"1"}', b"1", b"]"])
def test_what_zipkin_would_not_take_is_refused(producer: type[FakeProducer], spans: bytes) -> None:
    """Kafka takes anything, and Zipkin would drop the good spans of the message with the bad one."""
    assert isinstance(sender_of(producer).send(spans, 1), Refused)
    assert producer.made == []


def test_close_waits_for_the_producer_to_end(producer: type[FakeProducer]) -> None:
    """Its thread and its connections do not outlive it."""
    sender = sender_of(producer)
    sender.close()
    sender.send(span(1), 1)
    sender.close()
    assert producer.made[0].closed_with


def test_name_is_the_target(producer: type[FakeProducer]) -> None:
    """Servers and topic, and nothing of credentials."""
    sender = sender_of(producer, bootstrap_servers=("a:1", "b:2"), topic="t", sasl_plain_password="x")
    assert sender.name == "kafka a:1,b:2/t"


@given(st.lists(SPANS, min_size=1, max_size=3))
def test_list_is_one_that_zipkins_collector_takes_for_v2(spans: list[dict[str, Any]]) -> None:
    """It holds Endpoint" or "tags", whatever the spans have, and is otherwise what came."""
    joined = b",\n".join(written(span) for span in spans)
    message = as_list(joined)
    assert message[:1] == b"["
    assert b'Endpoint"' in message or b'"tags"' in message
    read = json.loads(message)
    if read[0].get("tags") == {} != spans[0].get("tags"):
        del read[0]["tags"]
        assert message.replace(b'"tags":{},', b"", 1) == b"[" + joined + b"]"
    else:
        assert message == b"[" + joined + b"]"
    assert read == spans


@pytest.mark.processes
@pytest.mark.parametrize("is_imported_first", [False, True])
def test_agent_under_kaspan_run_does_not_trace_its_own_producer(
    tmp_path: Path, is_imported_first: bool
) -> None:
    """Neither the import of kafka by the sender, nor one before it, makes a span of the agent's own sends."""
    program = (
        ("import kafka\n" if is_imported_first else "") + "import sys, os\n"
        "from kaspan.agent.senders.kafka import KafkaSender\n"
        "from kaspan.config.schema import KafkaSender as Settings\n"
        "from kaspan.demo.harness.cluster import MockCluster\n"
        "cluster = MockCluster()\n"
        "sender = KafkaSender(Settings(bootstrap_servers=(cluster.bootstrap_servers,)))\n"
        "sender._config |= {'api_version': (2, 3)}\n"
        'outcome = sender.send(b\'{"traceId":"1","id":"2"}\', 1)\n'
        "sender.close(); cluster.close()\n"
        "import kafka\n"
        "print(outcome, hasattr(kafka.KafkaProducer.send, '__wrapped__'))\n"
    )
    rings = tmp_path / "rings"
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{INJECT}", "KASPAN_INTERCEPTOR__RING_DIR": str(rings), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout == f"Delivered() {is_imported_first}\n", ran.stderr
    assert not [ring for ring in rings.glob("*") if b'"traceId"' in ring.read_bytes()]


@pytest.mark.processes
def test_kafka_is_imported_by_no_agent_that_does_not_use_it() -> None:
    """It costs 100 ms and 10 MB, and may not be installed."""
    program = "import sys, kaspan.agent.senders.kafka; print('kafka' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


@pytest.mark.processes
def test_missing_kafka_python_is_said_with_what_to_install() -> None:
    """The extra `kafka` has it; the error tells users without it what to install."""
    program = (
        "import sys; sys.modules['kafka'] = None\n"
        "from kaspan.agent.senders.base import SettingError\n"
        "from kaspan.agent.senders.kafka import import_producer\n"
        "try: import_producer()\n"
        "except SettingError as error: print(error.problem)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "install kaspan[agent,kafka]" in ran.stdout
