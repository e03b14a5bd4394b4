"""The record that a deserializer refused: read from where kafka-python was when the exception came."""

from __future__ import annotations

from typing import Any

_FETCHER = "kafka.consumer.fetcher"
_UNPACK = ("_unpack_records", "_unpack_message_set")
"""kafka-python's functions that make records, from 2.2 on and before it."""


def refused_record(error: BaseException, record_class: Any) -> Any:
    """The record whose deserializer raised `error`, with key and value as they came.

    None if that is not where `error` came from.
    """
    traceback = error.__traceback__
    while traceback is not None:
        frame, traceback = traceback.tb_frame, traceback.tb_next
        # What else raises there, as for a wrong checksum, is not about the record that `record` is then.
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
