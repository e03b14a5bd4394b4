"""The agent's log on standard error: text lines for people, or JSON objects for machines."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from kaspan.config import schema
from kaspan.config.errors import escaped

_OWN_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_logs = tuple(map(logging.getLogger, ("kaspan.agent", "kaspan.store")))


class _TextFormatter(logging.Formatter):
    """Formats a record as text: time in UTC, level, message."""

    converter = staticmethod(time.gmtime)

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own)
        # Text from a ring or a server must not start a new line, or reverse the direction of writing.
        record.message = escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802 (logging's own)
        # Indented: text that an exception quotes must not start a new line either.
        return "\n".join(f"  {escaped(line)}" for line in super().formatException(ei).split("\n"))


class _JsonFormatter(_TextFormatter):
    """Formats a record as a JSON object on one line: time, level, part (thread), message, other fields."""

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
        # Not msgspec: a path may have bytes that are not UTF-8.
        return json.dumps(entry, default=str)


_FORMATTERS: dict[str, type[logging.Formatter]] = {"text": _TextFormatter, "json": _JsonFormatter}


def write_log(settings: schema.Log, stream: TextIO | None = None) -> None:
    """Write the log of agent and store to standard error, as the settings say.

    May be called again to change it.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_FORMATTERS[settings.format]())
    for log in _logs:
        log.handlers[:] = [handler]
        log.setLevel(settings.level.upper())
        log.propagate = False
