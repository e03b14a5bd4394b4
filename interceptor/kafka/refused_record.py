"""The record that a deserializer refused, read from kafka-python's frames in the traceback."""

from __future__ import annotations

from typing import Any

_FETCHER = "kafka.consumer.fetcher"
_UNPACK = ("_unpack_records", "_unpack_message_set")
"""kafka-python's functions that make records, from 2.2 on and before it."""


def refused_record(error: BaseException, record_class: Any) -> Any:
    """Return the record whose deserializer raised `error`, with key and value as bytes.

    None if `error` did not come from a deserializer.
    """
    traceback = error.__traceback__
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        # Other errors there, such as a wrong checksum, are not about the record in `record`.
        if (
            traceback is not None
            and traceback.tb_frame.f_code.co_name == "_deserialize"
            and frame.f_code.co_name in _UNPACK
            and frame.f_globals.get("__name__") == _FETCHER
        ):
            partition, raw = frame.f_locals["tp"], frame.f_locals["record"]
            known = {"topic": partition.topic, "partition": partition.partition}
            return record_class(*[known.get(name, getattr(raw, name, None)) for name in record_class._fields])
    return None
