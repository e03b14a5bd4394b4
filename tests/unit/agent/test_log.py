"""kaspan.agent.log: lines for people and objects for machines."""

from __future__ import annotations

import io
import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest

from kaspan.agent.log import write_log
from kaspan.config import schema

LOG = logging.getLogger("kaspan.agent")
STORE_LOG = logging.getLogger("kaspan.store")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = [(log, list(log.handlers), log.level, log.propagate) for log in (LOG, STORE_LOG)]
    yield
    for log, handlers, level, propagate in before:
        log.handlers[:], log.level, log.propagate = handlers, level, propagate


def written(settings: schema.Log) -> io.StringIO:
    stream = io.StringIO()
    write_log(settings, stream)
    return stream


def test_text_is_one_line_with_time_and_level() -> None:
    """People read when, how bad and what."""
    stream = written(schema.Log())
    LOG.warning("spool %s is damaged", "/spool.db")
    time, level, text = stream.getvalue().split(" ", 2)
    assert time.endswith("Z")
    assert (level, text) == ("WARNING", "spool /spool.db is damaged\n")


def test_store_writes_to_the_same_log() -> None:
    """What it says of a damaged partition is for the operator of the agent."""
    stream = written(schema.Log(level="warning"))
    STORE_LOG.info("a partition is sealed")
    STORE_LOG.warning("a partition is damaged")
    assert stream.getvalue().endswith("WARNING a partition is damaged\n")


@pytest.mark.parametrize("format_", ["text", "json"])
def test_text_from_elsewhere_cannot_forge_a_line(format_: str) -> None:
    """A name from a ring or an answer from a server may hold anything, and stays inside its line."""
    stream = written(schema.Log(format=format_))  # type: ignore[arg-type]
    LOG.warning("ring of %s", "orders\n2026-01-01T00:00:00.000Z ERROR forged\r\x1b[2J\u2028\x85")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("char", ["\u202e", "\u2066", "\u200f", "\ufeff", "\u00ad", "\U000e0041", "\ud800"])
@pytest.mark.parametrize("format_", ["text", "json"])
def test_text_from_elsewhere_cannot_turn_a_line_around(format_: str, char: str) -> None:
    """Characters that are not seen, and change what is, are written as escapes."""
    stream = written(schema.Log(format=format_))  # type: ignore[arg-type]
    LOG.warning("ring of %s", f"orders{char}dab si gnihton")
    assert stream.getvalue().rstrip("\n").isprintable()
    assert "orders\\" in stream.getvalue()


@pytest.mark.parametrize("format_", ["text", "json"])
def test_traceback_cannot_forge_a_line(format_: str) -> None:
    """What an exception quotes begins no line of the log, and drives no terminal."""
    stream = written(schema.Log(format=format_))  # type: ignore[arg-type]
    try:
        raise ValueError("no span:\n2026-01-01T00:00:00.000Z ERROR forged\x1b[2J\u202e\x85")
    except ValueError:
        LOG.exception("failed")
    _, *traceback = stream.getvalue().rstrip("\n").split("\n")
    assert all(line.startswith("  ") and line.isprintable() for line in traceback)
    assert stream.getvalue().replace("\n", "").isprintable()


def test_json_has_a_message_and_its_fields_apart() -> None:
    """Machines find what the message is about without taking it apart."""
    stream = written(schema.Log(format="json"))
    fields = {"sender": "zipkin http://z", "reason": "HTTP 503"}
    thread = threading.Thread(
        target=lambda: LOG.warning("%(sender)s: %(reason)s", fields, extra=fields), name="ring receiver"
    )
    thread.start()
    thread.join()
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "warning",
        "part": "ring receiver",
        "message": "zipkin http://z: HTTP 503",
        **fields,
    }


def test_json_holds_a_traceback_in_its_line() -> None:
    """A failure is one object, like everything else."""
    stream = written(schema.Log(format="json"))
    try:
        raise ValueError("broken")
    except ValueError:
        LOG.exception("failed")
    entry = json.loads(stream.getvalue())
    assert entry["message"] == "failed"
    assert entry["exception"].endswith("ValueError: broken")


def test_json_takes_fields_of_any_type() -> None:
    """What JSON has no form for is written as text, so that no line is lost for it."""
    stream = written(schema.Log(format="json"))
    LOG.warning("odd", extra={"odd": threading.Lock, "bytes": b"\xff", "many": ("a", 1)})
    entry = json.loads(stream.getvalue())
    assert entry["many"] == ["a", 1]
    assert "lock" in entry["odd"]


def test_json_takes_a_path_that_is_no_text() -> None:
    """A file may be called anything."""
    stream = written(schema.Log(format="json"))
    LOG.warning("%s is not read", os.fsdecode(b"/rings/\xff.ring"))
    assert json.loads(stream.getvalue())["message"] == "/rings/\udcff.ring is not read"


def test_level_is_the_least_that_is_written() -> None:
    """agent.log.level keeps what is less out of the log."""
    stream = written(schema.Log(level="warning"))
    LOG.info("no")
    LOG.warning("yes")
    assert stream.getvalue().endswith("WARNING yes\n")
    assert stream.getvalue().count("\n") == 1


def test_log_is_written_once_after_it_was_changed() -> None:
    """A reload replaces the way of writing, and does not add a second one."""
    first = written(schema.Log())
    second = written(schema.Log(format="json"))
    LOG.info("said")
    assert first.getvalue() == ""
    assert json.loads(second.getvalue())["message"] == "said"
