from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.demo.harness import children as children_module
from kaspan.demo.harness.children import ChildError, Children
from kaspan.demo.harness.interrupts import Interrupted, Interrupts

pytestmark = pytest.mark.processes

DEADLINE_S = 20


@pytest.fixture
def interrupts() -> Iterator[Interrupts]:
    with Interrupts() as entered:
        yield entered


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_children_are_gone_when_the_block_is_left(tmp_path: Path, interrupts: Interrupts) -> None:
    """Every process that was started has ended, and been waited for, when the block is left."""
    with Children(tmp_path, interrupts) as children:
        child = children.start("sleeper", ["sleep", "60"], os.environ)
        assert child.process.poll() is None
    assert child.process.returncode == -signal.SIGTERM


def test_child_that_ignores_sigterm_is_killed(
    tmp_path: Path, interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that does not end when asked is ended by force after a bounded time."""
    monkeypatch.setattr(children_module, "TERMINATE_TIMEOUT_S", 0.1)
    code = "import signal,time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    with Children(tmp_path, interrupts) as children:
        child = children.start("deaf", python(code), os.environ)
        children.wait(lambda: "deaf" in child.output(), "it ignores SIGTERM", DEADLINE_S)
    assert child.process.returncode == -signal.SIGKILL


def test_failing_child_ends_the_wait_with_its_stderr(tmp_path: Path, interrupts: Interrupts) -> None:
    """When a process fails, waiting for anything ends at once, with its name, code and stderr."""
    with Children(tmp_path, interrupts) as children:
        children.start("broken", python("raise SystemExit('no such luck')"), os.environ)
        with pytest.raises(ChildError, match=r"broken failed with exit code 1:\nno such luck"):
            children.wait(lambda: False, "what never comes", DEADLINE_S)


def test_wait_ends_at_its_deadline(tmp_path: Path, interrupts: Interrupts) -> None:
    """Waiting is bounded, and the message says what was waited for and what the children wrote."""
    with Children(tmp_path, interrupts) as children:
        child = children.start("slow", ["sh", "-c", "echo still busy >&2; exec sleep 60"], os.environ)
        children.wait(lambda: bool(child.stderr()), "it is there", DEADLINE_S)
        with pytest.raises(ChildError, match=r"(?s)the moon: not within 0\.1 s.*still busy"):
            children.wait(lambda: False, "the moon", 0.1)


def test_lines_are_shown_whole_behind_the_name(
    tmp_path: Path, interrupts: Interrupts, capsys: pytest.CaptureFixture[str]
) -> None:
    """A printing child's output appears line by line, each behind its name; an unfinished line waits."""
    with Children(tmp_path, interrupts) as children:
        child = children.start("talker", ["printf", r"one\ntwo\nunfinished"], os.environ, prints=True)
        children.wait_for_exit([child], DEADLINE_S)
    assert capsys.readouterr().out == "  talker    one\n  talker    two\n"


def test_signal_ends_the_wait(tmp_path: Path, interrupts: Interrupts) -> None:
    """A signal that came while something else was going on ends the next wait, with a shell's exit code."""
    with Children(tmp_path, interrupts) as children:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted) as interrupted:
            children.wait(lambda: False, "what never comes", DEADLINE_S)
    assert interrupted.value.exit_code == 130


def test_ignored_signal_stays_ignored() -> None:
    """SIGHUP that is ignored, as under nohup, does not end the demo."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            interrupts.check()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_children_do_not_run_in_the_callers_folder(tmp_path: Path, interrupts: Interrupts) -> None:
    """What lies in the caller's folder, a kafka.py for example, is not what the applications import."""
    with Children(tmp_path, interrupts) as children:
        child = children.start("where", python("import os; print(os.getcwd())"), os.environ)
        children.wait_for_exit([child], DEADLINE_S)
        assert child.output().strip() == str(tmp_path)
