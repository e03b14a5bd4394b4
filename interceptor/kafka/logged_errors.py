"""Mark the span of the record in work when the application logs an exception (`errors_from_logs`)."""

from __future__ import annotations

import functools
import logging
from typing import Any

from kaspan.interceptor.failures import record_failure
from kaspan.interceptor.tracing.span import RecordSpan
from kaspan.interceptor.tracing.tracing import Tracing

_PATCHED = "_kaspan_patched"


def follow_logs(tracing: Tracing, logger_class: Any = logging.Logger) -> None:
    """Patch `Logger.handle` to mark the span for each exception that is logged at level ERROR or above.

    Each log record goes through `handle` once. A handler would not do: with one, `logging.basicConfig` does
    nothing. Calling it again does nothing.
    """
    plain = logger_class.handle
    if hasattr(plain, _PATCHED):
        return

    @functools.wraps(plain)
    def handle(self: Any, record: Any) -> Any:
        if record.levelno >= logging.ERROR and record.exc_info:
            try:
                _mark(tracing, record.exc_info[1])
            except Exception as error:  # noqa: BLE001
                record_failure("marking a record's span from a log record", error)
        return plain(self, record)

    setattr(handle, _PATCHED, True)
    logger_class.handle = handle


def _mark(tracing: Tracing, error: BaseException | None) -> None:
    span = tracing.scope.current_span()
    if isinstance(span, RecordSpan) and isinstance(error, Exception):
        of_record = span.record  # where it is a function's span
        (span if of_record is None or of_record.ended else of_record).fail(error)
