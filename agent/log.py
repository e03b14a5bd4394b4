"""The agent's log: lines on standard error, as text for people or as JSON objects for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from kaspan.config import schema
from kaspan.config.errors import escaped

_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_log = logging.getLogger("kaspan.agent")


class _TextFormatter(logging.Formatter):
    """Time in UTC, level and text."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own)
        # A name from a ring, or an answer of a server, must not begin a line of its own, nor turn its order.
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's own)
        # Set in, so that what an exception quotes does not begin a line either.
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).split("\n"))


class _JsonFormatter(_TextFormatter):
    """A JSON object on one line: time, level, part (the thread), message, and what else is known apart."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "part": "agent" if record.threadName == "MainThread" else record.threadName,
            "message": record.getMessage(),
        }
        entry |= {name: value for name, value in record.__dict__.items() if name not in _OWN_ATTRIBUTES}
        if record.exc_info:
            entry["exception"] = logging.Formatter.formatException(self, record.exc_info)
        # Not msgspec: a path may hold bytes that are no UTF-8.
        return json.dumps(entry, default=str)


_FORMATTERS: dict[str, type[logging.Formatter]] = {"text": _TextFormatter, "json": _JsonFormatter}


def write_log(settings: schema.Log, stream: TextIO | None = None) -> None:
    """Write the agent's log as the settings say, to standard error; may be called again to change it."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_FORMATTERS[settings.format]())
    _log.handlers[:] = [handler]
    _log.setLevel(settings.level.upper())
    _log.propagate = False
