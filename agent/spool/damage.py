"""What tells a damaged spool from a disk that takes nothing, and values that no agent has written."""

from __future__ import annotations

import sqlite3

MAX_INTEGER = 2**62
"""Larger is no number of a spool: ids and times leave room for all that is to come."""

# By text: Python 3.10 has no sqlite_errorcode.
_UNWRITABLE = ("is full", "disk I/O error", "readonly database", "is locked", "unable to open")
_ELSEWHERE = (*_UNWRITABLE, "out of memory", "interrupted")
ERRORS = (sqlite3.DatabaseError, UnicodeDecodeError)
"""What may come of a damaged file; the latter of what SQLite says, with names from the file in it."""
_OF_FILES = (
    UnicodeDecodeError,
    sqlite3.DatabaseError,
    sqlite3.OperationalError,
    sqlite3.IntegrityError,
    sqlite3.InternalError,
)


class DamagedError(sqlite3.DatabaseError):
    """The file holds what no agent has written; SQLite itself may find nothing wrong."""


def is_damage(error: BaseException) -> bool:
    """Whether the file is to blame: for all that SQLite says, but for what says that the system is."""
    return type(error) in (*_OF_FILES, DamagedError) and not any(text in str(error) for text in _ELSEWHERE)


def is_unwritable(error: BaseException) -> bool:
    """Whether the disk is to blame."""
    return isinstance(error, sqlite3.OperationalError) and any(text in str(error) for text in _UNWRITABLE)


def check_integers(what: str, *values: object) -> None:
    """Raise DamagedError if one of the values is not a whole number of a spool."""
    for value in values:
        if type(value) is not int or not 0 <= value <= MAX_INTEGER:
            raise DamagedError(f"{what} is {value!r:.50}")
