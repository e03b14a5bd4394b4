"""Tells a damaged spool from a disk that cannot be written, and finds values that no agent writes."""

from __future__ import annotations

import sqlite3

MAX_INTEGER = 2**62
"""The largest number in a spool; ids and times never come near it. A larger number is damage."""

# By text: Python 3.10 has no sqlite_errorcode.
_UNWRITABLE = ("is full", "disk I/O error", "readonly database", "is locked", "unable to open")
_ELSEWHERE = (*_UNWRITABLE, "out of memory", "interrupted")
ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What reading a damaged file raises. UnicodeDecodeError: from an SQLite message that quotes the file."""
_OF_FILES = (
    UnicodeDecodeError,
    sqlite3.DatabaseError,
    sqlite3.OperationalError,
    sqlite3.IntegrityError,
    sqlite3.InternalError,
)


class DamagedError(sqlite3.DatabaseError):
    """The file holds a value that no agent writes; SQLite itself may find nothing wrong."""


def is_damage(error: BaseException) -> bool:
    """Whether the file is the cause: true for all errors of SQLite but those that name the system."""
    return type(error) in (*_OF_FILES, DamagedError) and not any(text in str(error) for text in _ELSEWHERE)


def is_unwritable(error: BaseException) -> bool:
    """Whether the disk is the cause."""
    return isinstance(error, sqlite3.OperationalError) and any(text in str(error) for text in _UNWRITABLE)


def check_integers(what: str, *values: object) -> None:
    """Raise DamagedError if one of the values is not an integer from 0 to MAX_INTEGER."""
    for value in values:
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise DamagedError(f"{what} is {value!r:.50}")
