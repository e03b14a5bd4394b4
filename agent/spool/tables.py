"""The tables of a spool: how they are created, and how they are read. Each value is checked for damage."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from kaspan.agent.batch import SEPARATOR
from kaspan.agent.spool.damage import DamagedError, check_integers

STEPS = (
    (
        "create table batches"
        " (id integer primary key, spans integer, bytes integer, received_us integer, body blob)",
        "create table rings (path text primary key, position integer) without rowid",
        "create table senders (name text primary key, cursor integer) without rowid",
        "create table dead_letters"
        " (id integer primary key, sender text, died_us integer, reason text, span blob)",
    ),
    # The sender that a batch is for; null for all senders. After the body: SQLite finds a null without
    # reading the body.
    ("alter table batches add column sender text",),
)


class Message(NamedTuple):
    """Consecutive batches for a sender, up to the id `last_id`; without spans if none of them is for it."""

    last_id: int
    spans: int
    body: bytes


def read_cursors(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the cursor of each sender."""
    return _named(connection, "select name, cursor from senders")


def read_positions(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how far each ring was read, by its key."""
    return _named(connection, "select path, position from rings")


def _named(connection: sqlite3.Connection, statement: str) -> dict[str, int]:
    found = dict(connection.execute(statement))
    for name, number in found.items():
        check_integers(f"the number of {name!r:.200}", number)
        if type(name) is not str:
            raise DamagedError(f"{name!r:.200} is not a valid name")
    return found


def read_oldest(connection: sqlite3.Connection, after_id: int) -> tuple[int, int] | None:
    """Return the id of the first batch after an id, and when it came, in microseconds since the epoch."""
    found: tuple[int, int] | None = connection.execute(
        "select id, received_us from batches where id > ? order by id limit 1", (after_id,)
    ).fetchone()
    if found is not None:
        check_integers("a row", *found)
    return found


def read_message(
    connection: sqlite3.Connection, after_id: int, max_bytes: int, sender: str | None
) -> Message | None:
    """Read the next batches for a sender after an id: as many as fit into `max_bytes`, but at least one."""
    last_id, rows, spans, room = after_id, 0, 0, max_bytes
    for row_id, row_spans, size, only_for in connection.execute(
        "select id, spans, bytes, sender from batches where id > ? order by id", (after_id,)
    ):
        check_integers("a row", row_id, row_spans, size, row_id - last_id - 1)
        if only_for is None or only_for == sender:
            room -= size + len(SEPARATOR)
            if rows and room < 0:
                break
            rows += 1
            spans += row_spans
        last_id = row_id
    if last_id == after_id:
        return None
    found = connection.execute(
        "select body, bytes from batches where id > ? and id <= ? and (sender is null or sender = ?)"
        " order by id",
        (after_id, last_id, sender),
    ).fetchall()
    if len(found) != rows or any(type(body) is not bytes or len(body) != size for body, size in found):
        raise DamagedError("batches are not as long as they should be")
    return Message(last_id, spans, SEPARATOR.join([body for body, _ in found]))
