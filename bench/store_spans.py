"""Spans as kaspan makes them, the same ones in each run: what the benches of the span store read.

A trace is an event that goes through two topics: `send A`, `process A`, `send B`, `process B`. There are 50
services, 200 topics of 12 partitions each, and 250 traces a second by the spans' own clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

SERVICES = [f"service-{number:02}" for number in range(50)]
TOPICS = [f"shop.events.{number:03}" for number in range(200)]
PARTITIONS = 12
FIRST_US = 1_732_459_200_000_000
TRACE_INTERVAL_US = 4000

_SEND = (
    '{"traceId":"%s","id":"%s"%s,"kind":"PRODUCER","name":"send %s","timestamp":%d,"duration":%d,'
    '"localEndpoint":{"serviceName":"%s"},"remoteEndpoint":{"serviceName":"kafka"},'
    '"annotations":[{"timestamp":%d,"value":"kafka.enqueued"}],"tags":{"kafka.topic":"%s",'
    '"messaging.system":"kafka","messaging.operation.name":"send","messaging.destination.name":"%s",'
    '"messaging.client.id":"kafka-python-producer-1","kafka.key":"%s",'
    '"messaging.destination.partition.id":"%d","messaging.kafka.offset":"%d"%s}}'
)
_PROCESS = (
    '{"traceId":"%s","id":"%s","parentId":"%s","kind":"CONSUMER","name":"process %s","timestamp":%d,'
    '"duration":%d,"localEndpoint":{"serviceName":"%s"},"remoteEndpoint":{"serviceName":"kafka"},'
    '"tags":{"kafka.topic":"%s","messaging.system":"kafka","messaging.operation.name":"process",'
    '"messaging.destination.name":"%s","messaging.destination.partition.id":"%d",'
    '"messaging.consumer.group.name":"%s","messaging.client.id":"kafka-python-3.0.12",'
    '"messaging.kafka.offset":"%d","kafka.key":"%s","kafka.queue_time_ms":"%d","kafka.lag":"%d"%s}}'
)
_ERROR = ',"error":"payment %d was refused: no funds","error.type":"PaymentRefused"'


def traces(count: int, seed: int = 1) -> Iterator[list[str]]:
    """Yield traces of four spans each, as JSON, in the order of their time."""
    source = random.Random(seed)
    offsets = {
        (topic, partition): source.randrange(10**7) for topic in TOPICS for partition in range(PARTITIONS)
    }
    for number in range(count):
        yield _trace(source, offsets, FIRST_US + number * TRACE_INTERVAL_US)


def _trace(source: random.Random, offsets: dict[tuple[str, int], int], start_us: int) -> list[str]:
    trace_id = f"{source.getrandbits(128):032x}"
    key = f"order-{source.randrange(10**6)}"
    first = source.randrange(len(TOPICS))
    parent, spans = "", []
    for hop in range(2):
        topic = TOPICS[(first + hop * 37) % len(TOPICS)]
        # Each topic has one service that writes and one that reads it.
        sender = SERVICES[(first + hop * 37) % len(SERVICES)]
        reader = SERVICES[(first + hop * 37 + 37) % len(SERVICES)]
        partition = hash_of(key) % PARTITIONS
        offset = offsets[topic, partition] = offsets[topic, partition] + 1
        sent, processed = f"{source.getrandbits(64):016x}", f"{source.getrandbits(64):016x}"
        send_us, work_us = int(source.lognormvariate(8, 1)), int(source.lognormvariate(9.5, 1.3))
        wait_us = int(source.lognormvariate(7.5, 1.5))
        error = _ERROR % source.randrange(10**5) if source.random() < 0.01 else ""
        parent_part = f',"parentId":"{parent}"' if parent else ""
        ids = (trace_id, sent, parent_part, topic, start_us, send_us, sender)
        spans.append(_SEND % (*ids, start_us + 300, topic, topic, key, partition, offset, ""))
        start_us += send_us + wait_us
        ids = (trace_id, processed, sent, topic, start_us, work_us, reader)
        lag = source.randrange(50)
        tags = (topic, topic, partition, reader, offset, key, wait_us // 1000, lag, error)
        spans.append(_PROCESS % (*ids, *tags))
        parent = processed
        start_us += work_us // 3
    return spans


def hash_of(key: str) -> int:
    """Return the same number for a key in each run."""
    return sum(key.encode())


def arrivals(spans: int, seed: int = 1, batch_traces: int = 25) -> Iterator[bytes]:
    """Yield messages of 100 spans joined by commas, as the agent sends them; traces come in pieces.

    The two spans of a trace's first topic come a message earlier than those of its second.
    """
    late: list[str] = []
    found: list[str] = []
    for trace in traces(spans // 4, seed):
        found += trace[:2] + late[:2]
        late = late[2:] + trace[2:] if len(late) >= 2 * batch_traces else late + trace[2:]
        if len(found) >= 100:
            yield ",".join(found).encode()
            found = []
    if found or late:
        yield ",".join(found + late).encode()
