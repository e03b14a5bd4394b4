"""What is done when the process ends: records in work and sends that are open get their spans."""

from __future__ import annotations

import atexit
import functools
import sys


@functools.cache
def end_spans_at_exit() -> None:
    """Have the spans of records in work and of sends that are open when the process ends reported then.

    To be called when kafka is imported: what the application registers after that still runs before it, and
    so do kafka-python's producers, which close at exit.
    """
    atexit.register(_end_open_spans)


def _end_open_spans() -> None:
    handover = sys.modules.get("kaspan.interceptor.handover.hand_overs")
    if handover is not None:
        handover.end_open_calls()
    consumer = sys.modules.get("kaspan.interceptor.kafka.consumer")
    if consumer is not None:
        consumer.end_open_records()
    unanswered = sys.modules.get("kaspan.interceptor.kafka.open_sends")
    if unanswered is not None:
        unanswered.end_open_sends()
