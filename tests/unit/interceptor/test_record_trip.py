"""How many files a reader opens to follow an ordinary record in plain Python."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from kafka import TopicPartition

from kaspan.interceptor import failures

KASPAN = Path(failures.__file__).parents[1]
NOT_COUNTED = "interceptor/cython.py"
"""Its `cast` returns what it is given."""


def files_of(work: Callable[[], Any]) -> set[str]:
    """Return the files of kaspan that run, each by its path in the package."""
    files: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and KASPAN in path.parents:
            files.add(str(path.relative_to(KASPAN)))

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return files - {NOT_COUNTED}


def test_ordinary_record_runs_in_six_files(application: Any) -> None:
    """From the patched method to the ring, sent and received; what is compiled is not Python's to see."""
    producer = application.producer()

    def send() -> None:
        producer.send("orders", b"value", key=b"key")
        producer.last.acknowledge()

    send()  # makes the topic's templates
    sent = files_of(send)
    records = [application.record(offset, headers=list(producer.last.headers)) for offset in range(4)]
    consumer = application.consumer(records)
    consumer.set_highwater(TopicPartition("orders", 0), len(records))
    loop = iter(consumer)
    for _ in range(2):
        next(loop)
    received = files_of(lambda: next(loop))
    list(loop)

    assert len(application.take()) == 2 + len(records)
    assert len(sent) <= 6, sent
    assert len(received) <= 6, received
