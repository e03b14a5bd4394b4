"""The agent as a process, with rings on one side and a collector on the other, while things go wrong."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.deployment import Deployment
from support.load import RingApplication
from support.process import RunningProcess
from support.ring_writer import RingWriter, span
from support.waiting import wait_until
from support.zipkin_stub import ZipkinStub


def start_agent(deployment: Deployment, *arguments: str, **variables: str) -> RunningProcess:
    """Start an agent on the deployment's rings and wait until it reads them."""
    command = (sys.executable, "-m", "kaspan.cli.main", "agent", *arguments)
    agent = deployment.start("agent", *command, **variables)
    wait_until(
        lambda: "reads rings in" in agent.stderr or agent.process.poll() is not None, "the agent's start"
    )
    return agent


def rings(deployment: Deployment) -> Path:
    deployment.ring_dir.mkdir(mode=0o700, exist_ok=True)
    return deployment.ring_dir


def missing(zipkin_stub: ZipkinStub, written: set[str]) -> set[str]:
    return written - set(zipkin_stub.stored)


def arrive(zipkin_stub: ZipkinStub, written: set[str]) -> None:
    """Wait until everything that was written has been stored."""
    wait_until(
        lambda: not missing(zipkin_stub, written), f"{len(written)} spans at the collector", deadline_s=60.0
    )


def test_spans_of_a_collector_that_is_away_arrive_when_it_comes(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """The collector is down while the application runs and until it is gone; its spans come."""
    zipkin_stub.close()
    agent = start_agent(deployment, "--zipkin", zipkin_stub.url)
    application = RingApplication(rings(deployment), "1.ring", 1)
    wait_until(lambda: len(application.written) > 500, "500 spans")
    written = application.end()
    wait_until(lambda: not os.listdir(deployment.ring_dir), "the ring to be taken")
    again = ZipkinStub(port=zipkin_stub.port)
    arrive(again, written)
    again.close()
    assert max(again.stored.values()) == 1
    assert agent.stderr.count("Connection refused") == 1
    assert agent.stderr.count("works again") == 1


def test_spans_of_a_process_that_kills_itself_arrive(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """What a process had put into its ring when SIGKILL came is delivered, without a flush of its own."""
    program = (
        "import os, signal, sys; from pathlib import Path; from support.ring_writer import RingWriter, span\n"
        "writer = RingWriter(Path(sys.argv[1]))\n"
        "assert all(writer.put(span(number)) for number in range(1, 101))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", program, str(rings(deployment))]
    ran = subprocess.run(command, env={**os.environ, "PYTHONPATH": tests}, check=False)
    assert ran.returncode == -signal.SIGKILL
    start_agent(deployment, "--zipkin", zipkin_stub.url)
    arrive(zipkin_stub, {f"{number:016x}" for number in range(1, 101)})


def test_sigterm_takes_and_delivers_what_there_is(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """The agent ends with 0, and a span written just before is at the collector."""
    agent = start_agent(deployment, "--zipkin", zipkin_stub.url, KASPAN_AGENT__BATCH__FLUSH_INTERVAL_S="3600")
    application = RingApplication(rings(deployment), "1.ring", 1)
    wait_until(lambda: len(application.written) > 50, "50 spans")
    written = application.end()
    assert agent.terminate() == 0
    assert missing(zipkin_stub, written) == set()
    assert f"stopped: {len(written)} spans accepted" in agent.stderr
    assert "0 left in the spool" in agent.stderr


def test_sigterm_with_the_collector_away_says_what_is_left(
    deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """The agent does not wait for a silent collector; the spans are counted and the next agent sends them."""
    zipkin_stub.close()
    writer = RingWriter(rings(deployment))
    writer.put(span(1))
    agent = start_agent(deployment, "--zipkin", zipkin_stub.url)
    assert agent.terminate() == 0
    assert "1 left in the spool" in agent.stderr
    again = ZipkinStub(port=zipkin_stub.port)
    start_agent(deployment, "--zipkin", again.url)
    arrive(again, {f"{1:016x}"})
    again.close()
    writer.die()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "moment",
    ["kaspan.cli.agent.load_for_agent", "kaspan.agent.agent.Spool", "kaspan.agent.agent.Agent.start"],
)
def test_signal_during_the_start_is_heeded_when_it_is_done(
    deployment: Deployment, zipkin_stub: ZipkinStub, moment: str, number: signal.Signals
) -> None:
    """A supervisor that changes its mind gets an agent that ends in order, and one that reloads a reload."""
    program = (
        "import os, signal, sys; from pkgutil import resolve_name\n"
        "import kaspan.agent.agent, kaspan.cli.agent\n"
        "holder, _, name = sys.argv[1].rpartition('.')\n"
        "holder = resolve_name(holder); whole = getattr(holder, name)\n"
        "def interrupted(*arguments, **more):\n"
        "    setattr(holder, name, whole)\n"
        "    os.kill(os.getpid(), int(sys.argv[2]))\n"
        "    return whole(*arguments, **more)\n"
        "setattr(holder, name, interrupted)\n"
        "sys.exit(kaspan.cli.agent.main(sys.argv[3:]))\n"
    )
    writer = RingWriter(rings(deployment))
    writer.put(span(1))
    command = (sys.executable, "-c", program, moment, str(int(number)), "--zipkin", zipkin_stub.url)
    agent = deployment.start("agent", *command)
    if number == signal.SIGHUP:
        wait_until(lambda: "SIGHUP: " in agent.stderr or agent.process.poll() is not None, "the reload")
        agent.process.terminate()
    assert agent.wait() == 0
    assert "1 spans accepted" in agent.stderr
    assert "0 left in the spool" in agent.stderr
    writer.die()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_at_once(deployment: Deployment, stop: signal.Signals) -> None:
    """An operator who asks twice does not wait for a collector that hangs; the spans stay in the spool."""
    writer = RingWriter(rings(deployment))
    writer.put(span(1))
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        agent = start_agent(deployment, "--zipkin", url, KASPAN_AGENT__SHUTDOWN_TIMEOUT_S="3600")
        connection, _ = hanging.accept()
        with connection:
            os.kill(agent.process.pid, stop)
            wait_until(lambda: agent.process.poll() is None, "the drain")
            wait_until(lambda: stop_again(agent, stop), "the end", every_s=0.2)
    assert agent.wait() == 128 + stop
    assert "ended at once by a second signal" in agent.stderr
    writer.die()


def stop_again(agent: RunningProcess, stop: signal.Signals) -> bool:
    """Ask once more; whether it has ended."""
    if agent.process.poll() is None:
        os.kill(agent.process.pid, stop)
    return agent.process.poll() is not None


def test_second_agent_is_refused(deployment: Deployment, zipkin_stub: ZipkinStub, tmp_path: Path) -> None:
    """On the same spool it is told who holds it; on the same rings that they are read; the first goes on."""
    first = start_agent(deployment, "--zipkin", zipkin_stub.url)
    same_spool = start_agent(deployment, "--zipkin", zipkin_stub.url, "--ring-dir", str(tmp_path / "other"))
    assert same_spool.wait() == 2
    assert f"in use by another agent, pid {first.process.pid}" in same_spool.stderr
    same_rings = start_agent(deployment, "--zipkin", zipkin_stub.url, "--spool", str(tmp_path / "other.db"))
    assert same_rings.wait() == 2
    assert "is read by another agent" in same_rings.stderr
    assert first.process.poll() is None


def test_damaged_rings_do_not_disturb_the_others(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """Among hundreds of garbage and cut off rings the good one is delivered, and each is named once."""
    rng = random.Random(5)
    directory = rings(deployment)
    for number in range(200):
        path = directory / f"bad-{number}.ring"
        whole = RingWriter(directory, path.name)
        whole.put(span(number))
        whole.die()
        raw = bytearray(path.read_bytes())
        for _ in range(8):
            raw[rng.randrange(24)] = rng.randrange(256)
        path.write_bytes(raw[: rng.choice((0, 100, 4096, 5000, len(raw) - 1))])
    good = RingApplication(directory, "good.ring", 1 << 32)
    agent = start_agent(deployment, "--zipkin", zipkin_stub.url)
    wait_until(lambda: len(good.written) > 200, "200 spans")
    arrive(zipkin_stub, good.end())
    for number in range(200):
        assert agent.stderr.count(f"/bad-{number}.ring is not read: ") == 1
    assert agent.terminate() == 0


def test_reader_of_the_console_that_leaves_ends_the_agent(deployment: Deployment) -> None:
    """`kaspan agent --console | head` ends as a user expects; what was not printed stays in the spool."""
    writer = RingWriter(rings(deployment))
    writer.put(span(1))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kaspan.cli.main", "agent", "--console"]
    ran = subprocess.run(
        command,
        env=deployment.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert ran.returncode == 1
    assert "console failed" in ran.stderr
    assert "1 left in the spool" in ran.stderr
    writer.die()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 3 MiB of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "none", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a full disk is not tested: no small one can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(deployment: Deployment, agent: RunningProcess, said: str) -> tuple[RingWriter, set[str]]:
    """Write spans until the agent says that it cannot take them, and a few more that fit the ring."""
    writer = RingWriter(rings(deployment), data_bytes=1 << 20)
    written: set[str] = set()

    def refused() -> bool:
        for _ in range(100):
            number = len(written) + 1
            if writer.put(span(number, 1000)):
                written.add(f"{number:016x}")
        return said in agent.stderr

    wait_until(refused, "a full spool")
    return writer, written


def test_full_disk_holds_back_and_recovers_without_a_restart(
    small_disk: Path, deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """Rings are left unread while the disk is full, said once; then everything that was in them arrives."""
    zipkin_stub.close()
    agent = start_agent(deployment, "--zipkin", zipkin_stub.url, "--spool", str(small_disk / "spool.db"))
    writer, written = fill(deployment, agent, "database or disk is full")
    again = ZipkinStub(port=zipkin_stub.port)
    arrive(again, written)
    wait_until(lambda: "accepts spans again" in agent.stderr, "the spool to recover")
    assert writer.put(span(1 << 32))
    arrive(again, {f"{1 << 32:016x}"})
    again.close()
    assert agent.stderr.count("rings are left unread") == 1
    assert agent.terminate() == 0
    writer.die()


def test_disk_that_others_filled_is_waited_for(
    small_disk: Path, deployment: Deployment, zipkin_stub: ZipkinStub
) -> None:
    """With no byte left on the disk spans wait in the ring, and arrive when there is room."""
    agent = start_agent(deployment, "--zipkin", zipkin_stub.url, "--spool", str(small_disk / "spool.db"))
    ballast = small_disk / "ballast"
    command = ["dd", "if=/dev/zero", f"of={ballast}", "bs=4096"]
    assert "No space left" in subprocess.run(command, capture_output=True, text=True, check=False).stderr
    writer, written = fill(deployment, agent, "rings are left unread")
    ballast.unlink()
    arrive(zipkin_stub, written)
    assert agent.terminate() == 0
    writer.die()


def test_spool_limit_holds_back_and_recovers(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """agent.spool.max_bytes is kept; ring and spool together lose nothing that was written."""
    zipkin_stub.close()
    agent = start_agent(deployment, "--zipkin", zipkin_stub.url, KASPAN_AGENT__SPOOL__MAX_BYTES="1048576")
    writer, written = fill(deployment, agent, "agent.spool.max_bytes is 1048576")
    assert deployment.spool_path.stat().st_size < 2 * 1048576
    again = ZipkinStub(port=zipkin_stub.port)
    arrive(again, written)
    again.close()
    writer.die()


def test_file_size_limit_of_the_process_holds_back(deployment: Deployment, zipkin_stub: ZipkinStub) -> None:
    """`ulimit -f` is to the spool what a full disk is."""
    zipkin_stub.close()
    limited = 'ulimit -f 1500; exec "$0" -m kaspan.cli.main agent --zipkin "$1"'
    agent = deployment.start("agent", "sh", "-c", limited, sys.executable, zipkin_stub.url)
    wait_until(lambda: "reads rings in" in agent.stderr, "the agent's start")
    writer, written = fill(deployment, agent, "rings are left unread")
    again = ZipkinStub(port=zipkin_stub.port)
    arrive(again, written)
    again.close()
    assert agent.terminate() == 0
    writer.die()
