"""docs/semantics.md names the tags that spans of records have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kafka import TopicPartition

SEMANTICS = (Path(__file__).parents[4] / "docs" / "semantics.md").read_text(encoding="utf-8")


def documented() -> set[str]:
    table = SEMANTICS.split("\n## Tags\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([\w.]+)` \|", table, re.M))


def test_reference_has_every_tag_of_a_records_spans_and_no_other(application: Any) -> None:
    """Tombstones, failures and records that were polled included."""
    producer = application.producer(client_id="till-1")
    producer.send("orders", b"value", key=b"order-7")
    producer.last.acknowledge()
    producer.send("orders", None, key=b"order-8")
    producer.last.fail(ValueError("broken"))
    records = [application.record(0, key=b"order-7"), application.record(1, value=None)]
    consumer = application.consumer(records, group_id="depot", client_id="depot-1")
    consumer.set_highwater(TopicPartition("orders", 0), 2)
    for _ in consumer:
        pass
    tags: set[str] = set().union(*(span.tags for span in application.take()))

    assert tags == documented()
