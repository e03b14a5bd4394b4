"""Tests that a sender keeps its contract. For authors of senders: subclass it, and run it with pytest.

    class TestMySender(SenderConformance):
        type = "my_sender"

        def settings(self): ...
        def received(self): ...

The package must be installed, so that its entry point is found. Each test makes its own senders; what else
they need (a directory, a server on a free port) the subclass provides by fixtures.
"""

from __future__ import annotations

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kaspan.agent.batch import SEPARATOR, Batch
from kaspan.agent.senders.base import Delivered, Failed, Outcome, Refused, Sender
from kaspan.agent.senders.build import build
from kaspan.agent.senders.delivery import Delivery
from kaspan.agent.senders.entry_points import InstalledSenders
from kaspan.agent.spool.spool import Spool
from kaspan.config import ConfigError, load, schema
from kaspan.config.display import is_secret
from kaspan.config.keys import fields, is_settable

MAX_MESSAGE_BYTES = 500_000
"""The default of agent.batch.max_bytes."""

Span = dict[str, Any]

SPANS: tuple[Span, ...] = (
    {"traceId": "1", "id": "2"},
    {
        "traceId": "463ac35c9f6413ad48485a3953bb6124",
        "parentId": "6b221d5bc9e6496c",
        "id": "48485a3953bb6124",
        "kind": "CONSUMER",
        "name": "process größe \u2028 \U0001f600",
        "timestamp": 1732459200000001,
        "duration": 9007199254740993,
        "localEndpoint": {"serviceName": "shipping", "ipv4": "10.0.0.1", "port": 8080},
        "remoteEndpoint": {"serviceName": "kafka", "ipv6": "2001:db8::1"},
        "annotations": [{"timestamp": 1732459200000002, "value": "kafka.enqueued"}],
        "tags": {"error": "", "quoted": 'a "b" \\ },{ \n \u0001', "kafka.topic": "orders"},
        "debug": True,
        "shared": True,
    },
    {"traceId": "3", "id": "4", "tags": {"unknown": "below"}, "unknown": [1.5, None, {"a": False}]},
)
"""Spans with all fields that a span may have."""


class SenderConformance(ABC):
    """The tests. `type` is the entry point's name; `settings` and `received` say how to test it.

    With `stop_target` and `start_target` it also tests that no span is lost while the target is away.
    """

    type: str

    @abstractmethod
    def settings(self) -> Mapping[str, object]:
        """Return the keys for agent.senders, without `type`: for a target that runs and accepts all."""

    @abstractmethod
    def received(self) -> Sequence[Span]:
        """Return the spans that the target has received, decoded from JSON, in any order, repeated or not.

        Content that is not JSON may be left out.
        """

    def stop_target(self) -> None:  # noqa: B027 (may be left out)
        """Make the target unreachable until `start_target`."""

    def start_target(self) -> None:  # noqa: B027 (may be left out)
        """Make the target reachable again, with what it has received before."""

    @contextmanager
    def made(self, **settings: object) -> Iterator[Sender]:
        """Make a sender as the agent does, from settings as a user writes them."""
        entry = {"type": self.type, **self.settings(), **settings}
        loaded = load(environ={}, arguments={"agent.senders": [entry]}, senders=InstalledSenders())
        (sender,) = build(loaded.settings.agent.senders, schema.Batch(), os.environ)
        try:
            yield sender
        finally:
            sender.close()

    def test_entry_point_names_a_sender(self) -> None:
        """`type` is the name of an entry point in the group kaspan.senders that is a Sender."""
        assert self.type in InstalledSenders().names(), f"no entry point {self.type} in kaspan.senders"
        InstalledSenders().sender(self.type)

    def test_settings_are_of_kinds_that_users_can_set(self) -> None:
        """A key holds text, a number, a boolean or one of some words, or lists, maps or structs of them."""
        wrong = [
            name
            for name, field in fields(InstalledSenders().settings(self.type)).items()
            if not is_settable(field.type)
        ]
        assert not wrong, f"users cannot set {', '.join(wrong)}; lists are tuple[X, ...], maps dict[str, X]"

    def test_key_that_does_not_exist_is_refused(self) -> None:
        """A misspelt key would silently do nothing."""
        try:
            with self.made(no_such_key=1):
                pass
        except ConfigError:
            return
        raise AssertionError("a key that does not exist was taken")

    def test_name_is_the_same_for_the_same_target_and_shows_no_secret(self) -> None:
        """The name is the key of the cursor, and logs show it."""
        with self.made() as sender:
            name = sender.name
        with self.made() as sender:
            assert sender.name == name, f"{name!r} became {sender.name!r}: every start would repeat all spans"
        shown = [key for key, value in self.settings().items() if is_secret(key) and str(value) in name]
        assert not shown, f"{name!r} shows {', '.join(shown)}"

    def test_spans_arrive_as_they_were(self) -> None:
        """Every field, every character and every digit."""
        with self.made() as sender:
            assert_outcome(sender.send(joined(SPANS), 1), Delivered)
            sender.idle()
        self._assert_received(SPANS)

    def test_many_messages_arrive(self) -> None:
        """One after the other, each with one span or more."""
        spans = [{"traceId": "5", "id": f"{number:016x}"} for number in range(1, 91)]
        with self.made() as sender:
            for last_id in range(30):
                assert_outcome(
                    sender.send(joined(spans[3 * last_id : 3 * last_id + 3]), last_id + 1), Delivered
                )
        self._assert_received(spans)

    def test_message_of_the_largest_size_is_delivered_or_refused(self) -> None:
        """A message that is too large is Refused, so that it is split: Failed would repeat it for ever."""
        padding = "x" * 1000
        spans = [
            {"traceId": "6", "id": f"{number:016x}", "tags": {"padding": padding}}
            for number in range(1, MAX_MESSAGE_BYTES // 1100)
        ]
        with self.made() as sender:
            assert_outcome(sender.send(joined(spans), 1), Delivered, Refused)

    def test_bytes_that_are_no_spans_hold_up_nothing(self) -> None:
        """Such bytes are Refused or Delivered, never Failed, and the next message is delivered."""
        with self.made() as sender:
            for last_id, garbage in enumerate((b"{garbage", b"\xff\xfe", b"null", b'"text",\n[1]'), 1):
                assert_outcome(sender.send(garbage, last_id), Delivered, Refused)
            assert_outcome(sender.send(joined(SPANS[:1]), 10), Delivered)
        self._assert_received(SPANS[:1])

    def test_rows_are_given_up_when_they_are_passed(self) -> None:
        """`passed` never returns more than was sent, and after `close` nothing is held any more."""
        with self.made() as sender:
            assert_outcome(sender.send(joined(SPANS[:1]), 7), Delivered)
            sender.idle()
            assert sender.passed(7) <= 7, f"passed(7) is {sender.passed(7)}: spans that follow would be lost"
        assert sender.passed(7) == 7, f"passed(7) is {sender.passed(7)} after close(): it would be sent again"

    def test_target_that_is_away_is_a_failure_and_loses_nothing(self) -> None:
        """Each attempt is Failed, with a reason, until the target is back; then the same sender delivers."""
        if type(self).stop_target is SenderConformance.stop_target:
            return
        self.stop_target()
        with self.made() as sender:
            for _ in range(3):
                outcome = sender.send(joined(SPANS), 1)
                assert_outcome(outcome, Failed)
                assert getattr(outcome, "reason", ""), "Failed without a reason: nobody would know why"
            self.start_target()
            assert_outcome(sender.send(joined(SPANS), 1), Delivered)
        self._assert_received(SPANS)

    def test_agent_delivers_through_it(self) -> None:
        """From a spool, by the agent's own loop, until the spool is empty."""
        with tempfile.TemporaryDirectory() as directory, self.made() as sender:
            spool = Spool(f"{directory}/spool.db", 1 << 30)
            spool.register([sender.name])
            for span in SPANS:
                spool.put([Batch(1, joined([span]))], {})
            delivery = Delivery(spool, sender, MAX_MESSAGE_BYTES)
            delivery.drain()
            delivery.run()
            left = spool.totals.spans
            spool.close()
        assert left == 0, f"{left} spans are left in the spool"
        self._assert_received(SPANS)

    def _assert_received(self, spans: Sequence[Span]) -> None:
        received = self.received()
        missing = [span for span in spans if span not in received]
        assert not missing, f"{len(missing)} of {len(spans)} spans did not arrive as they were: {missing[:2]}"


def joined(spans: Sequence[Span]) -> bytes:
    """Join spans as the agent does."""
    return SEPARATOR.join(json.dumps(span, ensure_ascii=False).encode() for span in spans)


def assert_outcome(outcome: Outcome, *expected: type[Outcome]) -> None:
    """Check that `send` returned one of the expected outcomes."""
    names = " or ".join(one.__name__ for one in expected)
    assert isinstance(outcome, expected), f"send() returned {outcome}; expected {names}"
