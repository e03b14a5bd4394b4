"""kafka-python's own clients, all of them but the network: its seams are the only things faked.

They work with every version of kafka-python that kaspan does.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import time
import types
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.consumer import fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.errors import KafkaConfigurationError, KafkaTimeoutError
from kafka.future import Future
from kafka.producer.future import FutureProduceResult, FutureRecordMetadata, RecordMetadata
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder
from kafka.serializer import Deserializer

from kaspan.config import load
from kaspan.interceptor.kafka import consumer as consumer_tracing
from kaspan.interceptor.kafka import producer as producer_tracing
from kaspan.interceptor.tracing.tracing import Tracing

NO_TOPIC = "no.such.topic"
"""Sending to it waits for metadata in vain."""
OFFSET = 42
TIMESTAMP_MS = 1_700_000_000_000


class Appended:
    """One record that a producer has put into its buffer: what would go over the wire, and its future."""

    def __init__(
        self, partition: TopicPartition, timestamp_ms: int | None, key: Any, value: Any, headers: Any
    ) -> None:
        self.partition = partition
        self.timestamp_ms = timestamp_ms
        self.key = key
        self.value = value
        self.headers = headers
        self.future = FutureRecordMetadata(FutureProduceResult(partition), 0, timestamp_ms, None, -1, -1, -1)

    def acknowledge(self, offset: int = OFFSET) -> None:
        """Complete the record's future as the broker's acknowledgement does."""
        known = {
            "topic": self.partition.topic,
            "partition": self.partition.partition,
            "topic_partition": self.partition,
            "offset": offset,
            "timestamp": TIMESTAMP_MS,
        }
        self.future.success(RecordMetadata(**{name: known.get(name, -1) for name in RecordMetadata._fields}))

    def fail(self, error: BaseException) -> None:
        """Complete the record's future as a delivery error does."""
        self.future.failure(error)


class _Accumulator:
    """The buffer of a producer."""

    def __init__(self) -> None:
        self.appended: list[Appended] = []
        self.error: BaseException | None = None
        """Raised by every append, as when the buffer stays full."""
        self.delivery_error: BaseException | None = None
        """What every record's future has failed with when append returns it."""

    def append(
        self, partition: TopicPartition, timestamp_ms: int | None, key: Any, value: Any, headers: Any,
        *args: Any, **kwargs: Any,
    ) -> tuple[Any, ...]:  # fmt: skip
        if self.error is not None:
            raise self.error
        self.appended.append(Appended(partition, timestamp_ms, key, value, headers))
        if self.delivery_error is not None:
            self.appended[-1].fail(self.delivery_error)
        result = (self.appended[-1].future, False, False)
        return (*result, False) if "abort_on_new_batch" in kwargs else result


class _Idle:
    """A part of a client with nothing to do: whatever is called on it does nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class _Metadata:
    def topics(self) -> set[str]:
        return {"orders"}

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return None if topic == NO_TOPIC else {0, 1, 2}

    available_partitions_for_topic = partitions_for_topic


def refused_by(init: Callable[..., None]) -> None:
    """Begin as every client does, by kafka-python's own __init__, which stops at an unknown setting."""
    with contextlib.suppress(AssertionError, ValueError, KafkaConfigurationError):
        init(nonsense=True)


class UnconnectedProducer(KafkaProducer):  # type: ignore[misc]
    """kafka-python's producer up to its buffer; `appended` is what it would have sent."""

    def __init__(self, **config: Any) -> None:
        refused_by(super().__init__)
        self.config = {**KafkaProducer.DEFAULT_CONFIG, "api_version": (2, 5), "client_id": "till-1", **config}
        self._closed = False
        self._metadata = _Metadata()
        self._accumulator = _Accumulator()
        self._sender = _Idle()
        self._transaction_manager = None

    @property
    def appended(self) -> list[Appended]:
        """Every record sent so far, in order."""
        accumulator: _Accumulator = self._accumulator
        return accumulator.appended

    @property
    def last(self) -> Appended:
        """The record sent last."""
        return self.appended[-1]

    def let_append_fail(self, error: BaseException) -> None:
        """Have every further send fail where the record would go into the buffer."""
        self._accumulator.error = error

    def let_sends_fail_at_once(self, error: BaseException) -> None:
        """Have every further send return a future that has failed already."""
        self._accumulator.delivery_error = error

    def forget(self) -> None:
        """Lose every record, as a producer does that is collected with sends in flight."""
        self._accumulator.appended.clear()

    def close(self, *args: Any, **kwargs: Any) -> None:
        self._closed = True
        self.let_append_fail(AssertionError("RecordAccumulator is closed"))  # all that 2.0 looks at

    def __del__(self) -> None:
        pass

    def _partition(self, topic: str, partition: int | None, *args: Any) -> int:
        return 0 if partition is None else partition

    def _wait_on_metadata(self, topic: str, *args: Any) -> set[int]:
        if topic == NO_TOPIC:
            raise KafkaTimeoutError("Failed to update metadata after 60.0 secs.")
        return {0, 1, 2}


class _ConsumerTimedOut(dict[Any, Any]):
    """No records, and the loop's time is over: true, so that kafka-python does not go on waiting."""

    def __bool__(self) -> bool:
        return True


class UnconnectedConsumer(KafkaConsumer):  # type: ignore[misc]
    """kafka-python's consumer from the fetcher on.

    Each of `batches` is what one poll finds: records, of any partitions. After the last of them a loop
    ends as with `consumer_timeout_ms`, and poll() finds nothing.
    """

    def __init__(self, *batches: Iterable[Any], **config: Any) -> None:
        refused_by(super().__init__)
        self.config = {
            **KafkaConsumer.DEFAULT_CONFIG,
            "api_version": (2, 5),
            "client_id": "depot-1",
            "group_id": "depot",
            "consumer_timeout_ms": 60_000,
            "legacy_iterator": False,
            **config,
        }
        self._batches = deque([list(batch) for batch in batches])
        self._closed = False
        self._iterator = None
        self._consumer_timeout = float("inf")
        self._subscription = SubscriptionState("earliest")
        self._coordinator = self._client = self._metrics = self._fetcher = _Idle()
        partitions = {
            TopicPartition(record.topic, record.partition) for batch in self._batches for record in batch
        }
        self._subscription.assign_from_user(sorted(partitions))
        for partition in partitions:
            self._subscription.seek(partition, 0)

    def set_highwater(self, partition: TopicPartition, offset: int | None) -> None:
        """Say how far the partition goes, as the last fetch found it."""
        self._subscription.assignment[partition].highwater = offset

    def let_deserializer_raise(
        self, error: Callable[[], Exception], partition: TopicPartition, offset: int, headers: Any = ()
    ) -> None:
        """Have every further fetch find a record at an offset, whose value's deserializer raises."""
        refusing = _Refusing(error, b"value-%d" % offset)
        fetch = functools.partial(_fetch, partition, offset, list(headers), refusing)
        self._poll_once = lambda *args, **kwargs: fetch()

    def _poll_once(self, timer: Any, max_records: int, update_offsets: bool = True) -> dict[Any, Any]:
        if not self._batches:
            if update_offsets:
                return {}
            self._consumer_timeout = 0.0
            return _ConsumerTimedOut()
        found: dict[Any, Any] = {}
        for record in self._batches.popleft():
            found.setdefault(TopicPartition(record.topic, record.partition), []).append(record)
        return found


class _Refusing(Deserializer):  # type: ignore[misc]
    """Cannot read one value."""

    def __init__(self, error: Callable[[], Exception], refused: bytes) -> None:
        self._error = error
        self._refused = refused

    def deserialize(self, *args: Any) -> Any:
        if args[-1] == self._refused:
            raise self._error()
        return args[-1]


def _fetch(partition: TopicPartition, offset: int, headers: Any, deserializer: Deserializer) -> None:
    """Have kafka-python's own fetcher make records, up to an offset, of what came over the wire."""
    builder = MemoryRecordsBuilder(2, 0, 1 << 14)
    for at in range(offset + 1):
        builder.append(TIMESTAMP_MS, b"key-%d" % at, b"value-%d" % at, headers)
    builder.close()
    received = MemoryRecords(bytes(builder.buffer()))
    fetching = fetcher.Fetcher
    if hasattr(fetching, "_unpack_message_set"):  # before 2.1, and kafka-python-ng
        config = {"key_deserializer": None, "value_deserializer": deserializer}
        like = types.SimpleNamespace(
            config=config,
            _subscriptions=types.SimpleNamespace(assignment={partition: types.SimpleNamespace()}),
            _deserialize=functools.partial(fetching._deserialize, None),
        )
        list(fetching._unpack_message_set(like, partition, received))
    else:
        made = fetching.PartitionRecords
        # 2.1 wants these; later versions have defaults.
        wanted = {
            "check_crcs": False,
            "metric_aggregator": types.SimpleNamespace(record=lambda *_: None),
            "on_drain": lambda *_: None,
        }
        parameters = inspect.signature(made).parameters
        given = {name: value for name, value in wanted.items() if _is_required(parameters.get(name))}
        made(offset, partition, received, None, deserializer, **given).take(1)


def _is_required(parameter: inspect.Parameter | None) -> bool:
    return parameter is not None and parameter.default is parameter.empty


class TracedClients:
    """kafka-python's classes traced as in an application, on throwaway subclasses: nothing leaks."""

    def __init__(self, tracing: Tracing) -> None:
        self.tracing = tracing
        self._producers: list[Any] = []
        self.producer_class = type("Producer", (UnconnectedProducer,), {})
        self.consumer_class = type("Consumer", (UnconnectedConsumer,), {})
        self.fetcher = types.SimpleNamespace(ConsumerRecord=fetcher.ConsumerRecord)
        producer_tracing.instrument(self.producer_class, Future, tracing)
        consumer_tracing.instrument(self.consumer_class, self.fetcher, tracing)

    def producer(self, **config: Any) -> Any:
        """Return a traced producer."""
        self._producers.append(self.producer_class(**config))
        return self._producers[-1]

    def close(self) -> None:
        """Acknowledge what is under way, whose span would else come whenever Python collects it."""
        for producer in self._producers:
            for appended in producer.appended:
                if not appended.future.is_done:
                    appended.acknowledge()

    def consumer(self, *batches: Iterable[Any], **config: Any) -> Any:
        """Return a traced consumer that will find these batches of records."""
        return self.consumer_class(*batches, **config)

    def record(self, offset: int = 0, **fields: Any) -> Any:
        """Return a record as the fetcher makes it, with the class that it makes it of now."""
        return make_record(self.fetcher.ConsumerRecord, offset, **fields)

    def records(self, count: int, **fields: Any) -> list[Any]:
        """Return `count` records of one partition."""
        return [self.record(offset, **fields) for offset in range(count)]


def make_record(record_class: Any, offset: int = 0, **fields: Any) -> Any:
    """Return a record of topic orders, partition 0; `fields` say what differs."""
    known = {
        "topic": "orders",
        "partition": 0,
        "leader_epoch": 0,
        "offset": offset,
        "timestamp": int(time.time() * 1000),
        "timestamp_type": 0,
        "key": b"key-%d" % offset,
        "value": b"value-%d" % offset,
        "headers": [],
        "checksum": None,
        **fields,
    }
    return record_class(**{name: known.get(name, -1) for name in record_class._fields})


def plain_record(offset: int = 0, **fields: Any) -> Any:
    """Return the record that an untraced kafka-python would have delivered."""
    return make_record(fetcher.ConsumerRecord, offset, **fields)


def header(appended: Appended, name: str = "b3") -> bytes:
    """Return the value of the one header of that name in a record that was sent."""
    (value,) = [value for key, value in appended.headers if key == name]
    return bytes(value)


def make_tracing(ring_dir: Path, **settings: Any) -> Tracing:
    """Return the tracing of a service `shop` with rings in `ring_dir`.

    `settings` are keys of the section `interceptor`, with two underscores for a point: sampling__rate=0.5.
    """
    given = {"ring_dir": str(ring_dir), "ring_bytes": 1 << 20, **settings}
    arguments = {f"interceptor.{key.replace('__', '.')}": value for key, value in given.items()}
    return Tracing("shop", load(environ={}, arguments=arguments).settings.interceptor)
