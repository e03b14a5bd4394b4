"""One variant of bench/interceptor_flat.py, with VARIANT "" RECORDS 0 as its arguments: it is a worker of
bench/interceptor.py with nothing behind it, but for more than one topic.

Reads "send TOPICS" or "receive TOPICS" from standard input, does RECORDS of it and prints the CPU
microseconds a record, and the process's resident memory in KiB.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

from interceptor_worker import KEY, RECORDS, TOPIC, VALUE, NullConsumer, NullProducer, instrument, null_send
from kafka.consumer import fetcher
from kafka.consumer.group import KafkaConsumer
from kafka.producer.kafka import KafkaProducer
from kafka.structs import TopicPartition


def topics(count: int) -> list[str]:
    """Name so many topics; none of them is among those of another count."""
    return [f"{TOPIC}-{number}-of-{count}" for number in range(count)]


class FlatConsumer(NullConsumer):
    """Has the records of several topics for ever, one of each in turn."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        super().__init__()
        (state,) = self._subscription.assignment.values()
        self._subscription.assignment = {TopicPartition(name, 0): state for name in names}

    def _all(self) -> Any:
        first = next(super()._all())
        templates = [list(first._replace(topic=name)) for name in self._names]
        place = first._fields.index("offset")
        for number, values in enumerate(itertools.cycle(templates)):
            values[place] = number
            yield fetcher.ConsumerRecord(*values)


def rss_kib() -> int:
    """How much of this process is in memory, the ring too."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Serve slices until standard input ends."""
    KafkaProducer.send = null_send
    KafkaConsumer.__next__ = lambda self: next(self.records)
    instrument()
    producer = NullProducer()
    consumers: dict[int, FlatConsumer] = {}

    def send(count: int) -> float:
        names = list(itertools.islice(itertools.cycle(topics(count)), RECORDS))
        began = time.process_time()
        for name in names:
            producer.send(name, VALUE, key=KEY)
        producer.flush()
        return time.process_time() - began

    def receive(count: int) -> float:
        consumer = consumers.get(count)
        if consumer is None:
            consumer = consumers[count] = FlatConsumer(topics(count))
        left = RECORDS
        began = time.process_time()
        for _ in consumer:
            left -= 1
            if not left:
                break
        return time.process_time() - began

    operations = {"send": send, "receive": receive}
    for line in sys.stdin:
        what, count = line.split()
        cost_s = operations[what](int(count))
        print(cost_s / RECORDS * 1e6, rss_kib(), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
