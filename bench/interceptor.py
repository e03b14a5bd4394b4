"""The cost of tracing in the application: CPU microseconds a record, compared with a peer, in one process.

Each variant has its own producer and consumer. The variants take turns with a block of records, in another
order each round. The result is the median over rounds of the difference to the base in the same round; the
interval after it contains the true median in 95 of 100 runs. All times are CPU time of the process, all
threads. `plain` is kafka-python alone, `floor` adds one constant b3 header by hand, `peer` is
opentelemetry-instrumentation-kafka-python with a BatchSpanProcessor and an exporter that does nothing; its
queue is emptied at the end of each block. All variants read the same records, with a header for each of the
two. The overhead is the difference to the base, which sends a header if the variant does. The whole is the
difference to `plain`, so it includes the header.

    python bench/interceptor.py [--rounds 100] [--records 2000] [--null]

The first run has no broker: send() returns a future that is completed later, and the loop yields records from
memory. It measures the instrumentation alone; --null does only this run. Two runs on a real broker follow:
kafka-python computes a CRC-32C for each batch, in C if the package crc32c is installed, else in Python, which
takes longer than everything else.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import kafka
from kafka.consumer import fetcher
from kafka.consumer.group import KafkaConsumer
from kafka.future import Future
from kafka.producer.kafka import KafkaProducer
from kafka.record import util
from null_kafka import B3, HEADERS, KEY, VALUE, NullConsumer, NullProducer, put_nothing_behind_kafka

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
PLAIN_RECORD = fetcher.ConsumerRecord
NOT_SAMPLED = [(name, value[:-1] + b"0") for name, value in HEADERS]
READ_TOPIC, UNSAMPLED_TOPIC = "bench-read", "bench-read-unsampled"
BASES = {
    "send": {"kaspan": "floor", "kaspan unsampled": "floor", "kaspan excluded": "plain", "peer": "floor"},
    "receive": dict.fromkeys(("kaspan", "kaspan unsampled", "kaspan excluded", "peer"), "plain"),
}
"""The base of each variant; `excluded` sends no header."""

CRC_PACKAGE = {"Python": "without", "C": "with"}

Costs = dict[str, dict[str, list[float]]]
"""CPU us a record by operation, variant and round."""


class Variant:
    """A producer and a consumer of two new classes, which may be instrumented."""

    def __init__(self, name: str, instrument: Callable[[type, type], Callable[[], object] | None]) -> None:
        self.name = name
        self._topic = "bench-" + name.replace(" ", "-")
        self._read_topic = UNSAMPLED_TOPIC if "unsampled" in name else READ_TOPIC
        self._headers = {"headers": [B3]} if name == "floor" else {}
        fetcher.ConsumerRecord = PLAIN_RECORD
        self._producer_class = type("Producer", (KafkaProducer,), {})
        self._consumer_class = type("Consumer", (KafkaConsumer,), {})
        self._finish = instrument(self._producer_class, self._consumer_class)
        self._record_class = fetcher.ConsumerRecord
        self._producer: Any = None
        self._consumer: Any = None

    def connect(self, bootstrap_servers: str, group: str) -> None:
        """Make the producer and the consumer; without `bootstrap_servers`, those of null_kafka."""
        if bootstrap_servers:
            self._producer = self._producer_class(bootstrap_servers=bootstrap_servers)
            self._consumer = self._consumer_class(
                self._read_topic,
                bootstrap_servers=bootstrap_servers,
                group_id=f"{self._topic}-{group}",
                auto_offset_reset="earliest",
            )
        else:
            self._producer = type("Producer", (NullProducer, self._producer_class), {})(self._topic)
            headers = NOT_SAMPLED if self._read_topic == UNSAMPLED_TOPIC else HEADERS
            self._consumer = type("Consumer", (NullConsumer, self._consumer_class), {})(
                [self._read_topic], headers
            )

    def run(self, what: str, records: int) -> float:
        """Send or receive `records` records; returns the CPU microseconds for each."""
        fetcher.ConsumerRecord = self._record_class
        gc.collect()
        began = time.process_time()
        self._send(records) if what == "send" else self._receive(records)
        if self._finish is not None:
            self._finish()
        return (time.process_time() - began) / records * 1e6

    def _send(self, records: int) -> None:
        producer, topic, headers = self._producer, self._topic, self._headers
        for _ in range(records):
            producer.send(topic, VALUE, key=KEY, **headers)
        producer.flush()

    def _receive(self, records: int) -> None:
        for _ in self._consumer:
            records -= 1
            if not records:
                break

    def close(self) -> None:
        """Close the producer and the consumer on a broker."""
        if not isinstance(self._producer, NullProducer):
            self._producer.close()
            self._consumer.close()


def compute_crc_in(language: str) -> str:
    """Make kafka-python compute CRC-32C in "C" or in "Python"; returns "with" or "without" (crc32c)."""
    function = {"C": util.crc32c_c, "Python": util.crc32c_py}[language]
    if function is None:
        raise SystemExit("the package crc32c is not installed: make dev")
    util.calc_crc32c.__defaults__ = (function,)
    return CRC_PACKAGE[language]


def untraced(producer_class: type, consumer_class: type) -> None:
    """Leave the classes as they are."""


def traced(ring_dir: Path, **settings: Any) -> Callable[[type, type], None]:
    """Instrument by kaspan with these settings."""
    from kaspan.config.schema import Interceptor
    from kaspan.interceptor.kafka import consumer, producer
    from kaspan.interceptor.tracing.tracing import Tracing

    tracing = Tracing("bench", Interceptor(ring_dir=str(ring_dir), **settings))

    def instrument(producer_class: type, consumer_class: type) -> None:
        producer.instrument(producer_class, Future, tracing)
        consumer.instrument(consumer_class, fetcher, tracing)

    return instrument


def traced_by_peer(producer_class: type, consumer_class: type) -> Callable[[], object]:
    """Instrument by the peer; returns a function that exports all remaining spans."""
    from opentelemetry.instrumentation.kafka import KafkaInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    class Nothing(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:  # noqa: ARG002
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(Nothing()))
    with mock.patch.multiple(kafka, KafkaProducer=producer_class, KafkaConsumer=consumer_class):
        KafkaInstrumentor().instrument(tracer_provider=provider)
    return provider.force_flush


def variants(ring_dir: Path) -> list[Variant]:
    """Instrument all classes."""
    from kaspan.config.schema import Sampling

    return [
        Variant("plain", untraced),
        Variant("floor", untraced),
        Variant("kaspan", traced(ring_dir)),
        Variant("kaspan unsampled", traced(ring_dir, sampling=Sampling(rate=0.0))),
        Variant("kaspan excluded", traced(ring_dir, exclude_topics=["bench-*"])),
        Variant("peer", traced_by_peer),
    ]


def empty(ring_dir: Path) -> None:
    """Empty the rings, as an agent does."""
    from kaspan.wire import ring

    for path in ring_dir.glob("*.ring"):
        descriptor = os.open(path, os.O_RDWR)
        os.pwrite(descriptor, os.pread(descriptor, 8, ring.WRITE_POS), ring.READ_POS)
        os.close(descriptor)


def fill(bootstrap_servers: str, records: int) -> None:
    """Send the records that the consumers will read."""
    producer = KafkaProducer(bootstrap_servers=bootstrap_servers, linger_ms=20)
    for topic, headers in ((READ_TOPIC, HEADERS), (UNSAMPLED_TOPIC, NOT_SAMPLED)):
        for _ in range(records):
            producer.send(topic, VALUE, key=KEY, headers=headers)
    producer.close()


def measure(bootstrap_servers: str, rounds: int, records: int, group: str = "") -> Costs:
    """Let all variants take turns. The first round is a warm-up and does not count. The names of the consumer
    groups end with `group`: new groups read from the start.
    """
    order = random.Random(17)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        ring_dir = Path(directory) / "rings"
        all_variants = variants(ring_dir)
        costs_us: Costs = {what: {variant.name: [] for variant in all_variants} for what in BASES}
        for variant in all_variants:
            variant.connect(bootstrap_servers, group)
        for number in range(rounds + 1):
            for what, of in costs_us.items():
                for variant in order.sample(all_variants, len(all_variants)):
                    cost_us = variant.run(what, records)
                    empty(ring_dir)
                    if number:
                        of[variant.name].append(cost_us)
        for variant in all_variants:
            variant.close()
    return costs_us


def median_and_interval(values: list[float]) -> tuple[float, float, float]:
    """The median, and the bounds between which the true median is in 95 of 100 cases."""
    ordered, count = sorted(values), len(values)
    reach = 0.98 * math.sqrt(count)
    low, high = math.floor((count - 1) / 2 - reach), math.ceil((count - 1) / 2 + reach)
    return statistics.median(ordered), ordered[max(low, 0)], ordered[min(high, count - 1)]


def compare(costs_us: Costs) -> dict[str, dict[str, dict[str, float]]]:
    """Summarize by operation and variant: the cost, the overhead over the base, the whole over `plain`, and
    the ratio of both to the peer's.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for what, of in costs_us.items():
        found[what] = {name: {"us": statistics.median(values)} for name, values in of.items()}
        whole = dict.fromkeys(BASES[what], "plain")
        for prefix, bases in (("", BASES[what]), ("whole_", whole)):
            over_us = {name: median_and_interval(_over(of[name], of[base])) for name, base in bases.items()}
            peer_us = over_us["peer"][0]
            for name, (median_us, low_us, high_us) in over_us.items():
                found[what][name] |= {
                    f"{prefix}over_us": median_us,
                    f"{prefix}part": median_us / peer_us,
                    f"{prefix}part_low": low_us / peer_us,
                    f"{prefix}part_high": high_us / peer_us,
                }
    return found


def _over(costs_us: list[float], base_us: list[float]) -> list[float]:
    return [cost - base for cost, base in zip(costs_us, base_us, strict=True)]


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Format the table."""
    lines = []
    for what, of in found.items():
        lines.append(
            f"{what}: CPU us a record; overhead, ratio to the peer's, and interval; the same of the whole"
        )
        for name, row in of.items():
            line = f"  {name:18} {row['us']:8.2f}"
            for prefix in ("", "whole_") if "part" in row else ():
                interval = f"({row[prefix + 'part_low']:.3f} to {row[prefix + 'part_high']:.3f})"
                line += f" {row[prefix + 'over_us']:8.2f} {row[prefix + 'part']:8.3f} {interval}"
            lines.append(line)
    return "\n".join(lines)


@contextmanager
def broker() -> Iterator[str]:
    """Run a real broker; yields its address."""
    sys.path.insert(0, str(ROOT / "tests"))
    from servers.jars import fetch_jars
    from servers.running import Servers

    with tempfile.TemporaryDirectory() as directory:
        servers = Servers(fetch_jars(), Path(directory))
        servers.start(["kafka"])
        try:
            yield servers.kafka().bootstrap_servers
        finally:
            servers.stop()


def print_and_keep(name: str, behind: str, costs_us: Costs) -> None:
    """Print the table and write its figures to a file."""
    found = compare(costs_us)
    print(f"interceptor, {behind}")
    print(table(found), flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Start one process for each run: the peer can instrument only once in a process."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--records", type=int, default=2000)
    arguments.add_argument("--null", action="store_true", help="only the run without a broker")
    arguments.add_argument("--on", nargs=2, metavar=("BROKER", "CRC"), help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.null:
        put_nothing_behind_kafka()
        costs_us = measure("", options.rounds, options.records)
        print_and_keep("interceptor-null", "no broker", costs_us)
    elif options.on:
        bootstrap_servers, language = options.on
        package = compute_crc_in(language)
        costs_us = measure(bootstrap_servers, options.rounds, options.records, language)
        print_and_keep(
            f"interceptor-{package}-crc32c", f"real broker, {package} the package crc32c", costs_us
        )
    else:
        again = [sys.executable, *sys.argv]
        subprocess.run([*again, "--null"], check=True)
        with broker() as bootstrap_servers:
            fill(bootstrap_servers, options.records * (options.rounds + 1))
            for language in CRC_PACKAGE:
                subprocess.run([*again, "--on", bootstrap_servers, language], check=True)


if __name__ == "__main__":
    main()
