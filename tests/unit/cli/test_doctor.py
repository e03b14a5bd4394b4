"""`kaspan doctor` says what there is and, in words, what is wrong."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kaspan.cli.doctor import this_python
from kaspan.interceptor.ring_dir import MAX_UNREAD_ORPHANS
from kaspan.wire import VERSION
from kaspan.wire import ring as layout
from rings import DATA_BYTES, RingWriter, span
from scripts import SEND, Desk
from sink import Answer, Sink

PROCESS = {"service": "shop", "pid": 77, "kaspan": VERSION, "kafka_python": "3.0.12", "python": "3.11.7"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.environment["KASPAN_AGENT__RING_DIRS"] = f"[{made.ring_dir}]"
    return made


@pytest.fixture
def reading(desk: Desk) -> Iterator[None]:
    """Hold the ring directory as an agent does that reads it."""
    desk.ring_dir.mkdir(mode=0o700)
    descriptor = os.open(desk.ring_dir, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def ring(desk: Desk, name: str = "1-a.ring", **process: Any) -> RingWriter:
    desk.ring_dir.mkdir(mode=0o700, exist_ok=True)
    return RingWriter(desk.ring_dir, name, process=json.dumps({**PROCESS, **process}).encode())


def doctor(desk: Desk, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return desk.run(sys.executable, *flags, "-m", "kaspan.cli.main", "doctor", **variables)


def wrong(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what is wrong, and hold the exit code to it."""
    assert done.stderr == ""
    _, _, said = done.stdout.partition("\nWhat is wrong:\n")
    lines = [line.removeprefix("- ") for line in said.splitlines()]
    assert done.returncode == (1 if lines else 0), done.stdout
    assert ("\nNothing is wrong.\n" in done.stdout) == (not lines)
    return lines


def test_healthy_deployment_has_nothing_wrong(desk: Desk, reading: None) -> None:
    """With a traced program's ring and an agent at it, each is named and nothing else."""
    desk.traced(SEND)
    done = doctor(desk)

    assert wrong(done) == []
    assert f"spans go into rings in {desk.ring_dir}\nan agent reads it\n" in done.stdout
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("shop ")]
    assert (row[2:5], VERSION in row) == (["gone", "1", "spans"], True)


def test_doctor_says_when_nothing_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a C compiler all works, but the cost is another, and whoever measures should know."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.endswith(".compiled") else found(name)
    )
    said, _ = this_python()

    assert any("not compiled" in line for line in said)


def test_directory_that_is_not_there_yet_is_not_wrong(desk: Desk) -> None:
    """Before the first span there is no directory, and looking makes none."""
    done = doctor(desk)

    assert wrong(done) == []
    assert "does not exist yet" in done.stdout
    assert not desk.ring_dir.exists()


def test_ring_says_whose_it_is_and_what_is_in_it(desk: Desk, reading: None) -> None:
    """Each ring is a line: service, pid, whether the process lives, and its counters and versions."""
    living, dead = ring(desk, "1-a.ring"), ring(desk, "2-b.ring", service="depot", pid=78)
    living.put(span(1))
    living.set_header(layout.WRITTEN_SPANS, 1)
    dead.die()
    lines = [line.split() for line in doctor(desk).stdout.splitlines()]

    unread = str(layout.frame_bytes(len(span(1))))
    versions = [VERSION, "3.0.12", "3.11.7"]
    assert ["shop", "77", "alive", "1", "spans", "0", unread, "B", "0", *versions] in lines
    assert ["depot", "78", "gone", "0", "spans", "0", "0", "B", "0", *versions] in lines


def test_spans_that_nobody_reads_are_wrong(desk: Desk) -> None:
    """Without an agent, waiting spans are pointed out with what to do."""
    ring(desk).put(span(1))

    assert wrong(doctor(desk)) == [
        f"spans wait in {desk.ring_dir} and no agent reads them: start `kaspan agent`"
    ]


def test_dropped_spans_are_wrong(desk: Desk, reading: None) -> None:
    """A ring that was full is named with how many spans it dropped."""
    ring(desk).set_header(layout.DROPPED_SPANS, 9)

    (said,) = wrong(doctor(desk))
    assert said.startswith("shop (pid 77) has dropped 9 spans, since its ring was full")


def test_suppressed_failures_are_wrong(desk: Desk, reading: None) -> None:
    """Failures of kaspan's own that the application never saw are counted, and where to read of them."""
    ring(desk).set_header(layout.SUPPRESSED_ERRORS, 3)

    (said,) = wrong(doctor(desk))
    assert said.startswith("kaspan has failed 3 times in shop (pid 77)")
    assert "log" in said


def test_ring_that_fills_up_under_an_agent_is_wrong(desk: Desk, reading: None) -> None:
    """More than half full while an agent reads: it does not keep up."""
    writer = ring(desk)
    while writer.write_pos <= DATA_BYTES // 2:
        writer.put(span(1, 1000))

    assert wrong(doctor(desk)) == [
        "the ring of shop (pid 77) is more than half full: the agent does not keep up"
    ]


def test_limit_of_unread_rings_is_wrong(desk: Desk, reading: None) -> None:
    """With as many unread rings as stop new ones from being made, it says that new processes are untraced."""
    for number in range(MAX_UNREAD_ORPHANS):
        ring(desk, f"{number}-a.ring").die()

    assert wrong(doctor(desk)) == [
        f"{MAX_UNREAD_ORPHANS} rings of ended processes were never read: new processes are not traced"
    ]


def test_program_with_another_kaspan_is_wrong(desk: Desk, reading: None) -> None:
    """A program that still runs with an older kaspan is named."""
    ring(desk, kaspan="0.0.9")

    assert wrong(doctor(desk)) == [f"shop (pid 77) runs with kaspan 0.0.9, and this is {VERSION}"]


def test_file_that_is_no_ring_is_wrong(desk: Desk, reading: None) -> None:
    """Garbage, and headers with garbage in them, are named and stop nothing."""
    (desk.ring_dir / "1-\x1b\u202ea.ring").write_bytes(b"garbage")
    ring(desk, "2-b.ring", service="sh\x1b[2J\u202eop\n").put(span(1))
    done = doctor(desk)

    (said,) = wrong(done)
    assert said.startswith(f"{desk.ring_dir}/1-\\x1b\\u202ea.ring: ")
    assert done.stdout.replace("\n", "").isprintable()


def test_directory_that_programs_would_refuse_is_wrong(desk: Desk) -> None:
    """The same words that a program would log are said of a ring directory that it may not use."""
    desk.ring_dir.mkdir(mode=0o700)
    desk.ring_dir.chmod(0o777)

    (said,) = wrong(doctor(desk))
    assert "has mode 0777, so others may write there" in said


def test_directory_that_the_agent_does_not_read_is_wrong(desk: Desk) -> None:
    """Settings under which application and agent miss each other are pointed out."""
    (said,) = wrong(doctor(desk, KASPAN_AGENT__RING_DIRS="[/elsewhere]"))

    assert str(desk.ring_dir) in said
    assert "/elsewhere" in said


def test_disabled_tracing_is_wrong(desk: Desk) -> None:
    """With interceptor.enabled false nothing is traced, and it says who said so."""
    (said,) = wrong(doctor(desk, OTEL_SDK_DISABLED="true"))

    assert said == "interceptor.enabled is false (environment OTEL_SDK_DISABLED): nothing is traced"


def test_wrong_settings_are_said_with_exit_code_2(desk: Desk) -> None:
    """Settings that no application would run with are named as everywhere."""
    done = doctor(desk, KASPAN_INTERCEPTOR__SAMPLING__RATE="7")

    assert done.returncode == 2
    assert "interceptor.sampling.rate is 7" in done.stderr


def test_python_without_kafka_python_is_wrong(desk: Desk) -> None:
    """Where kafka cannot be imported there is nothing to trace."""
    desk.module("sitecustomize.py", "import sys; sys.modules['kafka'] = None")
    (said,) = wrong(doctor(desk))

    assert said.startswith("kafka-python is not installed for this Python")


def test_python_is_traced_under_kaspan_run_only(desk: Desk) -> None:
    """It says whether a program started here and now is traced, and by what."""
    assert "under `kaspan run`, and not otherwise" in doctor(desk).stdout

    run = desk.run(*desk.kaspan_run(), "-m", "kaspan.cli.main", "doctor")
    assert "its programs are traced here, by `kaspan run`" in run.stdout


def test_agent_by_http_is_asked_whether_it_takes_spans(desk: Desk) -> None:
    """With an address in interceptor.agent an empty report goes there, and no ring is looked for."""
    sink = Sink()
    try:
        done = doctor(desk, KASPAN_INTERCEPTOR__AGENT=sink.url)
        assert wrong(done) == []
        assert [report.body for report in sink.reports] == [b"[]"]
        assert "rings" not in done.stdout
        sink.answer = lambda report: Answer(401, "no token")
        (refused,) = wrong(doctor(desk, KASPAN_INTERCEPTOR__AGENT=sink.url))
        assert "HTTP 401 Unauthorized no token" in refused
    finally:
        sink.close()

    (gone,) = wrong(doctor(desk, KASPAN_INTERCEPTOR__AGENT=sink.url))
    assert gone.startswith(f"{sink.url} cannot be reached: ConnectionRefusedError")
