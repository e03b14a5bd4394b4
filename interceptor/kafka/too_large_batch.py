"""Send a batch again without kaspan's header if the broker refuses it as too large."""

from __future__ import annotations

import functools
from typing import Any

from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.tracing.tracing import Tracing

_PATCHED = "_kaspan_patched"
_MESSAGE_TOO_LARGE, _RECORD_LIST_TOO_LARGE = 10, 18
_HEADERS_SINCE_MAGIC = 2
_NO_PRODUCER = -1
_NO_LIMIT = 2**31 - 1


def retry_without_context(sender_class: type, formats: Any, tracing: Tracing) -> None:
    """Patch `_can_retry` of kafka-python's Sender, which it calls for a batch that the broker has refused.

    `formats` is kafka.record.default_records. The batch goes where kafka-python's own retries go: to the
    front of its partition, with the same sequence numbers. Calling it again does nothing.
    """
    original = sender_class._can_retry  # type: ignore[attr-defined]
    if getattr(original, _PATCHED, None) is True:
        return

    @functools.wraps(original)
    def can_retry(self: Any, batch: Any, error: Any) -> Any:
        retries = original(self, batch, error)
        if retries or getattr(error, "errno", None) not in (_MESSAGE_TOO_LARGE, _RECORD_LIST_TOO_LARGE):
            return retries
        try:
            return _is_open(self, batch) and _strip(batch, formats, tracing)
        except Exception as failure:  # noqa: BLE001
            record_failure("taking the context out of a batch that is too large", failure)
            return retries

    setattr(can_retry, _PATCHED, True)
    sender_class._can_retry = can_retry  # type: ignore[attr-defined]


def _is_open(sender: Any, batch: Any) -> bool:
    """Whether the batch may still be sent: the conditions of kafka-python's own retries."""
    if getattr(batch, "final_state", None) is not None:
        return False
    timeout_ms = getattr(sender._accumulator, "delivery_timeout_ms", None)
    if timeout_ms is not None and batch.has_reached_delivery_timeout(timeout_ms):
        return False
    transactions = getattr(sender, "_transaction_manager", None)
    return not transactions or bool(transactions.producer_id_and_epoch.match(batch))


def _strip(batch: Any, formats: Any, tracing: Tracing) -> bool:
    """Remove the context from every record of the batch. False if no record has one of kaspan's."""
    topic = batch.topic_partition.topic
    if topic in tracing.excluded_topics or topic in tracing.propagation.excluded_topics:
        return False  # headers that look like a context are the application's
    buffer = batch.records.buffer()
    read = formats.DefaultRecordBatch(bytes(buffer))
    if read.magic < _HEADERS_SINCE_MAGIC:
        return False
    records = list(read)
    headers = [tracing.propagation.without_context(record.headers) for record in records]
    if all(len(left) == len(record.headers) for left, record in zip(headers, records, strict=True)):
        return False
    written = formats.DefaultRecordBatchBuilder(
        magic=read.magic,
        compression_type=read.compression_type,
        is_transactional=read.is_transactional,
        producer_id=getattr(read, "producer_id", _NO_PRODUCER),
        producer_epoch=getattr(read, "producer_epoch", _NO_PRODUCER),
        base_sequence=getattr(read, "base_sequence", _NO_PRODUCER),
        batch_size=_NO_LIMIT,
    )
    for number, (record, left) in enumerate(zip(records, headers, strict=True)):
        written.append(number, record.timestamp, record.key, record.value, left)
    batch.records._buffer = type(buffer)(written.build())
    return True
