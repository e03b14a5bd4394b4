"""One process of bench/interceptor_scaling.py; its arguments are `plain` or `traced`, and RECORDS.

For each line "send TOPICS" or "receive TOPICS" of standard input it sends or receives RECORDS records, and
prints the CPU microseconds a record and the process's resident memory in KiB.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path

from null_kafka import KEY, VALUE, NullConsumer, NullProducer, put_nothing_behind_kafka

VARIANT, RECORDS = sys.argv[1], int(sys.argv[2])


def topics(count: int) -> list[str]:
    """Name `count` topics; names of different counts differ."""
    return [f"bench-{number}-of-{count}" for number in range(count)]


def rss_kib() -> int:
    """The resident memory of this process, with its ring."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def main() -> None:
    """Serve slices until standard input ends."""
    put_nothing_behind_kafka()
    if VARIANT == "traced":
        from kaspan.interceptor.bootstrap import activation

        activation.activate()
    producer = NullProducer("bench")
    consumers: dict[int, NullConsumer] = {}

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
            consumer = consumers[count] = NullConsumer(topics(count))
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
