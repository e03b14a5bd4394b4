"""`kaspan agent dead-letter`: while the agent runs and while it does not."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.agent.spool.control_socket import ControlSocket
from kaspan.agent.spool.dead_letters import DeadLetters
from kaspan.agent.spool.spool import Spool
from kaspan.cli import agent
from support.ring_writer import span
from support.waiting import wait_until

MAX_BYTES = 1 << 30


class Bench:
    """A spool with three letters of zipkin and one of a sender that is gone, and the command over it."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = str(path / "spool.db")
        self._capsys = capsys
        self.spool = self.open()
        for number in range(3):
            DeadLetters(self.spool).add("zipkin", [(f"HTTP 400: {number}", span(number))])
        DeadLetters(self.spool).add("former", [("HTTP 413", b"\xff{\x1b[31m")])
        self._control: ControlSocket | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> Spool:
        spool = Spool(self.path, MAX_BYTES)
        spool.register(["zipkin"])
        return spool

    def start_agent(self) -> None:
        """Answer as an agent does that holds the spool."""
        self._control = ControlSocket(self.spool)
        self._thread = threading.Thread(target=self._control.run)
        self._thread.start()

    def stop_agent(self) -> None:
        if self._control is not None and self._thread is not None:
            self._control.stop()
            self._thread.join(30)
            assert not self._thread.is_alive()
            self._control = None
        self.spool.close()

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command; its exit code, standard output and standard error."""
        command, *rest = arguments
        code = agent.main(["dead-letter", command, "--spool", self.path, *rest])
        said = self._capsys.readouterr()
        return code, said.out, said.err


@pytest.fixture(params=["agent runs", "agent does not run"])
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Bench]:
    bench = Bench(tmp_path, capsys)
    if request.param == "agent runs":
        bench.start_agent()
    else:
        bench.spool.close()
    yield bench
    bench.stop_agent()


def test_list_shows_what_was_refused_and_why(bench: Bench) -> None:
    """One line each: id, time, size, sender, reason."""
    code, out, _ = bench.run("list")
    assert code == 0
    head, *lines = out.splitlines()
    assert head.split() == ["ID", "DIED", "(UTC)", "BYTES", "SENDER", "REASON"]
    assert [(line.split()[0], *line.split()[4:]) for line in lines] == [
        ("1", "zipkin", "HTTP", "400:", "0"),
        ("2", "zipkin", "HTTP", "400:", "1"),
        ("3", "zipkin", "HTTP", "400:", "2"),
        ("4", "former", "HTTP", "413"),
    ]
    assert bench.run("list", "--sender", "former")[1].count("\n") == 2


def test_show_gives_the_span_alone_on_standard_output(bench: Bench) -> None:
    """So that it can be piped; what else is known goes to standard error."""
    code, out, err = bench.run("show", "2")
    assert (code, out) == (0, span(1).decode() + "\n")
    assert "reason: HTTP 400: 1" in err


def test_show_does_not_drive_the_terminal(bench: Bench) -> None:
    """Bytes that are not text, and control characters, are printed as escapes."""
    assert bench.run("show", "4")[1] == "\\xff{\\u001b[31m\n"


def test_replay_puts_spans_back_and_says_what_stays(bench: Bench) -> None:
    """By id, then all; a sender that is gone gets nothing."""
    assert bench.run("replay", "2")[:2] == (
        0,
        "1 put back into the spool, for the sender that refused them\n",
    )
    code, out, err = bench.run("replay", "--all")
    assert (code, out.split()[0]) == (0, "2")
    assert err.startswith("1 stay")
    bench.stop_agent()
    spool = bench.open()
    assert (spool.totals.spans, spool.totals.dead_spans) == (3, 1)
    spool.close()


def test_purge_throws_away(bench: Bench) -> None:
    """By sender, by id, all."""
    assert bench.run("purge", "--sender", "former")[:2] == (0, "1 deleted\n")
    assert bench.run("purge", "1", "2")[1] == "2 deleted\n"
    assert bench.run("purge", "--all")[1] == "1 deleted\n"
    assert bench.run("list") == (0, "", "There are no dead letters.\n")


@pytest.mark.parametrize("command", [("show", "99"), ("replay", "99"), ("purge", "99")])
def test_letter_that_is_not_there_is_an_error(bench: Bench, command: tuple[str, ...]) -> None:
    """Exit code 1, and how to see which there are."""
    code, out, err = bench.run(*command)
    assert (code, out) == (1, "")
    assert "list" in err


def test_what_is_to_be_replayed_or_purged_must_be_said(bench: Bench) -> None:
    """Neither does anything to all letters by oversight."""
    for command in ("replay", "purge"):
        for arguments in ((), ("1", "--all")):
            with pytest.raises(SystemExit) as refused:
                bench.run(command, *arguments)
            assert refused.value.code == 2


def test_spool_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made, and the message names the setting."""
    path = tmp_path / "none.db"
    assert agent.main(["dead-letter", "list", "--spool", str(path)]) == 1
    assert f"agent.spool.path: {path} does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_agent_that_does_not_answer_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If a process holds the spool and does not answer at the socket, the message names it."""
    bench = Bench(tmp_path, capsys)
    code, _, err = bench.run("list")
    assert code == 1
    assert f"pid {os.getpid()}" in err
    bench.stop_agent()


def test_socket_is_its_users_alone_and_goes_with_the_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spans are in what it says; mode 0600. One that is left behind is replaced."""
    bench = Bench(tmp_path, capsys)
    path = Path(f"{bench.path}.control")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    bench.start_agent()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    bench.stop_agent()
    assert not path.exists()


def test_file_in_the_place_of_the_socket_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The agent works without it, and logs that."""
    path = tmp_path / "spool.db.control"
    path.write_text("mine")
    bench = Bench(tmp_path, capsys)
    bench.start_agent()
    assert "commands cannot reach the spool" in caplog.text
    bench.stop_agent()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("id_", ["99999999999999999999", "9223372036854775808", "-1", "1.5", "x"])
def test_number_that_cannot_be_an_id_is_a_wrong_argument(bench: Bench, id_: str) -> None:
    """Exit code 2 and the rule, before anybody is asked; what can be one may be missing."""
    for command in ("show", "replay", "purge"):
        with pytest.raises(SystemExit) as refused:
            bench.run(command, "--", id_)
        assert refused.value.code == 2
    assert bench.run("show", f"{2**63 - 1}")[0] == 1


def test_sender_that_is_not_utf8_is_a_wrong_argument(bench: Bench) -> None:
    """A shell passes any bytes; no sender has such a name."""
    with pytest.raises(SystemExit) as refused:
        bench.run("list", "--sender", "\udcff")
    assert refused.value.code == 2


HUGE = b"99999999999999999999"
FIND = b'{"type":"Find","selection":{%b},"after_id":%b,"limit":%b}\n'


@pytest.mark.parametrize(
    "request_",
    [
        b"garbage\n",
        b"\n",
        b'{"type":"Other"}\n',
        b"x" * 2_000_000,
        b'{"type":"Show","id":%b}\n' % HUGE,
        b'{"type":"Show","id":-9223372036854775809}\n',
        b'{"type":"Purge","selection":{"ids":[%b]}}\n' % HUGE,
        b'{"type":"Purge","selection":{"died_before_us":%b}}\n' % HUGE,
        FIND % (b"", HUGE, b"1"),
        FIND % (b"", b"0", HUGE),
        FIND % (b"", b"0", b"-1"),
        FIND % (b'"sender":"\\ud800"', b"0", b"1"),
        FIND % (b'"sender":"\xff"', b"0", b"1"),
        b'{"type":"Find","selection":' + b"[" * 100_000 + b"\n",
    ],
)
def test_request_that_is_none_harms_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], request_: bytes
) -> None:
    """After any bytes the next request is answered."""
    bench = Bench(tmp_path, capsys)
    bench.start_agent()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{bench.path}.control")
        try:
            client.sendall(request_)
            client.shutdown(socket.SHUT_WR)
            client.recv(100)
        except OSError:
            pass
    assert bench.run("list")[0] == 0
    bench.stop_agent()


def test_request_that_fails_is_answered_with_its_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any failure the client gets the error, and the next request is answered."""
    bench = Bench(tmp_path, capsys)
    bench.start_agent()
    with monkeypatch.context() as broken:
        broken.setattr(DeadLetters, "find", lambda *arguments: 1 // 0)
        code, _, err = bench.run("list")
        assert (code, err) == (1, "kaspan agent dead-letter: integer division or modulo by zero\n")
    assert bench.run("list")[0] == 0
    bench.stop_agent()


def test_connection_that_cannot_be_taken_is_not_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process without free descriptors takes the next connection when it has some again."""
    monkeypatch.setattr("kaspan.agent.spool.control_socket.RETRY_S", 0.0)
    bench = Bench(tmp_path, capsys)
    refusals = iter([OSError(errno.EMFILE, "Too many open files")] * 3)
    control = ControlSocket(bench.spool)
    accept = control._listening.accept

    class Refusing:
        def __getattr__(self, name: str) -> object:
            return getattr(listening, name)

        def accept(self) -> object:
            for error in refusals:
                raise error
            return accept()

    listening, control._listening = control._listening, Refusing()  # type: ignore[assignment]
    thread = threading.Thread(target=control.run)
    thread.start()
    assert bench.run("list")[0] == 0
    control.stop()
    thread.join(30)
    assert not thread.is_alive()
    bench.spool.close()


def test_long_path_has_its_socket_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The system limits a socket's path to 107 bytes; a spool's path may be longer."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    bench = Bench(directory, capsys)
    bench.start_agent()
    assert bench.run("list")[0] == 0
    bench.stop_agent()
    assert not Path(f"{bench.path}.control").exists()


@pytest.mark.processes
def test_running_agent_answers_the_command(tmp_path: Path) -> None:
    """The command works with an agent process that does not listen on any address."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("KASPAN_", "OTEL_"))},
        "KASPAN_AGENT__RING_DIRS": f"[{tmp_path}/rings]",
        "KASPAN_AGENT__SPOOL__PATH": f"{tmp_path}/spool.db",
        "KASPAN_AGENT__LISTEN": "",
        "KASPAN_AGENT__SOCKET": "",
    }
    kaspan = [sys.executable, "-m", "kaspan.cli.main", "agent"]
    running = subprocess.Popen([*kaspan, "--console"], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_until((tmp_path / "spool.db.control").exists, "the agent's control socket")
        listing = subprocess.run(
            [*kaspan, "dead-letter", "list"], env=environment, capture_output=True, text=True, check=False
        )
        assert (listing.returncode, listing.stderr) == (0, "There are no dead letters.\n")
    finally:
        running.terminate()
        running.wait(30)
    assert not (tmp_path / "spool.db.control").exists()
