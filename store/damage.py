"""Tells a damaged partition from a disk that cannot be written."""

from __future__ import annotations

import sqlite3

from kaspan.store.blocks import DamagedBlockError

# By text: Python 3.10 has no sqlite_errorcode.
_UNWRITABLE = ("is full", "disk I/O error", "readonly database", "is locked", "unable to open")
_ELSEWHERE = (*_UNWRITABLE, "out of memory", "interrupted", "cannot be opened")
ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError, DamagedBlockError)
"""What reading a damaged partition raises. UnicodeDecodeError: from a message of SQLite's that quotes it."""
_OF_FILES = (
    *ERRORS,
    sqlite3.OperationalError,
    sqlite3.IntegrityError,
    sqlite3.InternalError,
)


def is_damage(error: BaseException) -> bool:
    """Whether the file is the cause: true for all errors of SQLite but those that name the system."""
    return type(error) in _OF_FILES and not any(text in str(error) for text in _ELSEWHERE)


def is_unwritable(error: BaseException) -> bool:
    """Whether the disk is the cause."""
    return isinstance(error, sqlite3.OperationalError) and any(text in str(error) for text in _UNWRITABLE)
