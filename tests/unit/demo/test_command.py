from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kaspan.cli import demo, trace, traces
from kaspan.demo import scenarios
from kaspan.demo.harness import cluster
from kaspan.demo.harness.cluster import MockCluster
from support.waiting import wait_until

DEADLINE_S = 60


def run_main(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = demo.main(arguments)
    return code, capsys.readouterr().err


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections: bound, so that no other process takes it, and not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(autouse=True)
def private_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demo makes its temporary directory, so that a test can see that it is gone."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(directory))
    return directory


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--orders", "0"], "'0' is not a whole number from 1 to 1000"),
        (["--orders", "many"], "'many' is not a whole number from 1 to 1000"),
        (["--orders", "1001"], "'1001' is not a whole number from 1 to 1000"),
        (["--zipkin", "zipkin:9411"], "'zipkin:9411' is not a URL such as http://127.0.0.1:9411"),
        (["--zipkin", "file:///etc/passwd"], "is not a URL"),
        (["--kafka", "broker"], "'broker' is not HOST:PORT, such as 127.0.0.1:9092"),
        (["--kafka", "http://broker:9092"], "is not HOST:PORT"),
        (["--speed", "11"], "unrecognized arguments: --speed 11"),
    ],
)
def test_bad_option_is_refused_with_its_rule(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option that cannot be right ends the command with 2 and a message of the value and the rule."""
    with pytest.raises(SystemExit) as ended:
        demo.main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("module", ["kafka", "confluent_kafka", "rich", "zstandard"])
def test_missing_package_is_named_with_the_extras(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a package of the extras the demo ends with 2 and says what to install."""
    real = demo.find_spec
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == module else real(name))
    code, said = run_main([], capsys)
    assert code == 2
    assert f"{demo.REQUIRED[module]} missing" in said
    assert "install kaspan[agent,demo]" in said


def test_missing_command_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a `kaspan` command to start the applications by, the demo ends with 2 and says so."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, said = run_main([], capsys)
    assert code == 2
    assert "there is no `kaspan` command" in said


def test_absent_zipkin_is_named(capsys: pytest.CaptureFixture[str], closed_port: int) -> None:
    """Where no Zipkin listens the demo ends with 1 before it starts anything, and names the address."""
    url = f"http://127.0.0.1:{closed_port}"
    code, said = run_main(["--zipkin", url], capsys)
    assert code == 1
    assert f"no Zipkin at {url}: [Errno 111] Connection refused; is it running?" in said


def test_absent_kafka_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    """Where no Kafka listens the demo gives up after a bounded time, with 1, and names the address."""
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT_S", 0.5)
    code, said = run_main(["--kafka", f"127.0.0.1:{closed_port}"], capsys)
    assert code == 1
    assert f"no Kafka at 127.0.0.1:{closed_port}" in said


def test_silent_kafka_is_given_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo stops waiting for a server that accepts the connection and does not speak Kafka."""
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code, said = run_main(["--kafka", f"127.0.0.1:{silent.getsockname()[1]}"], capsys)
    assert code == 1
    assert "no Kafka at" in said


def test_kafka_that_makes_no_topics_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker on which the demo cannot make its topics ends it with 1, and the topic is named."""
    monkeypatch.setattr(cluster, "ADMIN_TIMEOUT_S", 1.0)
    # The mock cluster answers a request for its topics and knows none that makes one.
    mock = MockCluster()
    code, said = run_main(["--kafka", mock.bootstrap_servers], capsys)
    assert code == 1
    assert "cannot make topic orders" in said


@pytest.mark.processes
def test_failing_application_ends_the_demo_with_its_stderr(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fake_kaspan: Callable[..., str],
    private_tmp: Path,
) -> None:
    """When one of its processes fails the demo ends with 1, shows its stderr and leaves nothing behind."""
    kaspan = fake_kaspan(run='[ "$name" = mailer ] && { echo out of stamps >&2; exit 3; }; exec "$@"')
    monkeypatch.setattr(demo, "find_kaspan", lambda: kaspan)
    code, said = run_main([], capsys)
    assert code == 1
    assert said == "kaspan demo: mailer failed with exit code 3:\nout of stamps\n"
    assert list(private_tmp.iterdir()) == []


@pytest.mark.processes
def test_application_that_was_not_traced_fails_the_demo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, fake_kaspan: Callable[..., str]
) -> None:
    """When kaspan warns in an application, which runs on, the demo shows the warning and ends with 1."""
    kaspan = fake_kaspan(
        agent="trap 'exit 0' TERM; while :; do sleep 0.05; done",
        run='[ "$name" = mailer ] && echo kaspan: this process is not traced >&2; exec "$@"',
    )
    monkeypatch.setattr(demo, "find_kaspan", lambda: kaspan)
    code, said = run_main(["--orders", "1"], capsys)
    assert code == 1
    assert said == "kaspan demo: not everything was traced:\nmailer: kaspan: this process is not traced\n"


@pytest.mark.processes
def test_environment_has_nothing_of_the_caller_and_a_place_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Settings for real services do not reach the demo, whose spans stay in its own directory."""
    monkeypatch.setenv("KASPAN_CONFIG", "/etc/kaspan.yaml")
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    made = scenarios.environment(tmp_path)
    assert {key for key in made if key.startswith(("KASPAN_", "OTEL_"))} == {
        "KASPAN_INTERCEPTOR__RING_DIR",
        "KASPAN_AGENT__RING_DIRS",
        "KASPAN_AGENT__SPOOL__PATH",
        "KASPAN_AGENT__LISTEN",
        "KASPAN_AGENT__SOCKET",
    }
    assert made["KASPAN_AGENT__LISTEN"] == made["KASPAN_AGENT__SOCKET"] == ""
    assert made["KASPAN_AGENT__SPOOL__PATH"].startswith(str(tmp_path))


def start_demo(private_tmp: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kaspan.cli.main", "demo", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(private_tmp)},
        cwd=private_tmp,
    )


def processes_of(private_tmp: Path) -> list[str]:
    """List the processes, but zombies, whose environment names the demo's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue  # it has ended, or belongs to another user
            if str(private_tmp).encode() in environment:
                found.append(entry.name)
    return found


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="no /proc to find processes in"
)


@pytest.mark.processes
@needs_proc
def test_demo_runs_on_nothing_but_python_and_ends_by_itself(private_tmp: Path) -> None:
    """`kaspan demo` without options prints every order's trace, the refused one too, and ends with 0."""
    process = start_demo(private_tmp)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, err
    assert err == ""
    traces = out.partition("The traces:")[2]
    assert traces.count("send orders") == traces.count("process orders") == 3
    assert traces.count("send shipments") == 3
    assert traces.count("process shipments") == 2
    assert "MessageSizeTooLargeError" in traces
    assert processes_of(private_tmp) == []
    assert list(private_tmp.iterdir()) == [private_tmp / f"kaspan-demo-{os.geteuid()}"]


@pytest.mark.processes
def test_demo_says_how_to_look_at_its_traces_again(
    private_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands that it prints work as they are, and the next demo replaces the store."""
    for _ in range(2):
        out, _ = start_demo(private_tmp, "--orders", "2").communicate(timeout=DEADLINE_S)
    commands = [shlex.split(line) for line in out.splitlines() if " --store /" in line]
    kaspan, word, trace_id, *source = commands[0]

    assert source == ["--store", str(private_tmp / f"kaspan-demo-{os.geteuid()}")]
    assert (private_tmp / kaspan).resolve() == Path(demo.find_kaspan()).resolve()
    assert [command[1] for command in commands] == [word, "traces", "server"]
    assert (word, trace.main([trace_id, *source])) == ("trace", 0)
    assert f"trace {trace_id}  4 spans" in capsys.readouterr().out
    assert traces.main(source) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 2


@pytest.mark.processes
@needs_proc
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["kaspan agent", "order 1: shipped"])
def test_signal_in_the_middle_leaves_nothing_behind(private_tmp: Path, moment: str, signum: int) -> None:
    """Ctrl-C, or SIGTERM, ends all that the demo started: no process, no file, no traceback."""
    process = start_demo(private_tmp)
    assert process.stdout is not None
    seen = ""
    while moment not in seen:
        line = process.stdout.readline()
        assert line, f"the demo ended before it printed {moment!r}"
        seen += line
    wait_until(lambda: processes_of(private_tmp), "the demo has started its processes", DEADLINE_S)
    process.send_signal(signum)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 128 + signum
    assert err == f"kaspan demo: {signal.Signals(signum).name}: all processes of the demo were ended\n"
    assert processes_of(private_tmp) == []
    assert list(private_tmp.iterdir()) == []
