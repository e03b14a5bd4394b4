"""Processes that change under our feet: no descriptors, another root, another user, another program."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaspan.config.schema import default_ring_dir
from support.programs import SEND, ProgramRunner, outcome
from support.ring_reader import RingReader, rings
from support.waiting import wait_until

MORE = "producer.send('orders', b'value'); producer.last.acknowledge()\n"
CLOSE_ALL = "import os; os.closerange(3, 1024)\n"
OPEN_OTHERS = """
others = [open(f"other-{number}", "w") for number in range(20)]
for other in others: other.write("whole")
"""
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may")
STRANGER = 54321
"""A user id without a user."""


def is_owned(path: Path) -> bool:
    """Whether the agent would say that the ring's owner lives."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def test_daemon_that_closed_all_descriptors_keeps_its_ring(programs: ProgramRunner) -> None:
    """The lock that tells the agent that the owner lives outlasts os.closerange, and spans still arrive."""
    check = """
import fcntl, glob
with open(*glob.glob(os.environ["KASPAN_INTERCEPTOR__RING_DIR"] + "/*.ring"), "rb") as ring:
    try:
        fcntl.flock(ring, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        print("owned")
"""
    assert outcome(programs.traced(SEND + CLOSE_ALL + MORE + check)) == (0, "owned\n", "")

    assert len(RingReader(programs.ring_dir).take()) == 2
    assert not any(map(is_owned, rings(programs.ring_dir)))


def test_forked_child_of_such_a_daemon_closes_nothing_of_the_applications(programs: ProgramRunner) -> None:
    """When the ring's descriptors are gone and their numbers another's, fork leaves those files open."""
    fork = """
pid = os.fork()
if pid == 0:
    producer.send("children", b"value"); producer.last.acknowledge()
    for other in others: other.write(" and whole"); other.flush()
    os._exit(0)
print(os.waitpid(pid, 0)[1])
for other in others: other.flush()
"""
    assert outcome(programs.traced(SEND + CLOSE_ALL + OPEN_OTHERS + MORE + fork)) == (0, "0\n", "")

    assert len(RingReader(programs.ring_dir).take()) == 3
    texts = {path.read_text() for path in programs.directory.glob("other-*")}
    assert texts == {"whole and wholewhole"}


@pytest.mark.parametrize(
    "end", ["", "if os.fork() == 0: sys.exit()\nelse: os.wait()"], ids=["itself", "child"]
)
def test_end_of_such_a_daemon_loses_nothing_of_the_applications(end: str, programs: ProgramRunner) -> None:
    """What the application has still to write to files with our numbers is written at the end."""
    assert outcome(programs.traced("import sys\n" + SEND + CLOSE_ALL + OPEN_OTHERS + end)) == (0, "", "")

    written = [path.read_text() for path in programs.directory.glob("other-*")]
    assert len(written) == 20
    assert set(written) <= {"whole", "wholewhole"}


def test_ring_takes_no_more_than_one_descriptor(programs: ProgramRunner) -> None:
    """An application near its limit of descriptors loses one to kaspan, and from Python 3.13 on none."""
    code = (
        "import os, kafka; before = len(os.listdir('/proc/self/fd'))\n"
        f"{SEND}\nprint(len(os.listdir('/proc/self/fd')) - before)"
    )
    kept = 0 if sys.version_info >= (3, 13) else 1
    assert outcome(programs.traced(code)) == (0, f"{kept}\n", "")


DAEMONISE = """
def daemonise():
    if os.fork(): os._exit(0)
    os.setsid()
    if os.fork(): os._exit(0)
    os.chdir("/")
    os.closerange(0, 1024)
    os.open(os.devnull, os.O_RDWR); os.dup(0); os.dup(0)
"""


@pytest.mark.parametrize("before", ["", MORE], ids=["kafka imported before", "a span before"])
def test_daemon_of_the_classic_kind_is_traced(before: str, programs: ProgramRunner) -> None:
    """Two forks, a session of its own, another directory and no descriptors: the daemon's spans are there."""
    code = (
        "import os\nfrom support.kafka_clients import UnconnectedProducer; producer = UnconnectedProducer()\n"
        f"pipe = os.pipe()\n{before}{DAEMONISE}"
        "done = os.path.abspath('done'); daemonise()\n"
        f"{MORE}{MORE}open(done + '.tmp', 'w').close(); os.rename(done + '.tmp', done)"
    )
    assert outcome(programs.traced(code)) == (0, "", "")
    wait_until((programs.directory / "done").exists, "the daemon has sent")

    assert len(RingReader(programs.ring_dir).take()) == (3 if before else 2)


def test_process_that_changed_its_directory_is_traced(programs: ProgramRunner) -> None:
    """Neither settings nor ring are looked for relative to where the process is now."""
    (programs.directory / "kaspan.yaml").write_text("service: elsewhere\n")
    code = f"import os; os.chdir('/')\n{SEND}"
    done = programs.run(
        *programs.kaspan_run()[:2], "--config", "kaspan.yaml", "--", sys.executable, "-c", code
    )

    assert outcome(done) == (0, "", "")
    (span,) = RingReader(programs.ring_dir).take()
    assert span.local_endpoint is not None
    assert span.local_endpoint.service_name == "elsewhere"


@only_root
def test_ring_goes_on_in_another_root(programs: ProgramRunner) -> None:
    """A process that has its ring when it calls chroot goes on writing into it."""
    assert outcome(programs.traced(f"import os\n{SEND}\nos.chroot('modules')\n{MORE}", **jail(programs))) == (
        0,
        "",
        "",
    )

    assert len(RingReader(programs.ring_dir).take()) == 2


TOO_LATE = {
    "the first span": ("producer = UnconnectedProducer()\nos.chroot('modules')\n", "interceptor.ring_dir"),
    "the first client": ("os.chroot('modules')\nproducer = UnconnectedProducer()\n", "untraced"),
}


@only_root
@pytest.mark.parametrize(("start", "said"), TOO_LATE.values(), ids=TOO_LATE.keys())
def test_what_needs_the_old_root_in_a_new_one_is_one_warning(
    programs: ProgramRunner, start: str, said: str
) -> None:
    """Where ring directory or modules cannot be reached any more, a warning says so and the work goes on."""
    start = f"import os; from support.kafka_clients import UnconnectedProducer\n{start}"
    done = programs.traced(f"{start}{MORE}{MORE}print('done')", **jail(programs))

    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def jail(programs: ProgramRunner) -> dict[str, str]:
    (programs.directory / "modules").mkdir()
    return {}


@pytest.fixture
def strangers_rings() -> Iterator[Path]:
    """Give the directory where that user's rings are when nothing is set, and take it away again."""
    directory = Path(default_ring_dir().rpartition("-")[0] + f"-{STRANGER}")
    shutil.rmtree(directory, ignore_errors=True)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@only_root
def test_worker_under_another_user_uses_that_users_directory(
    programs: ProgramRunner, strangers_rings: Path
) -> None:
    """An import of kafka as root, as in a preloading server, does not tie the workers to root's rings."""
    code = (
        "import os; from support.kafka_clients import UnconnectedProducer; producer = UnconnectedProducer()\n"
        f"os.setgid({STRANGER}); os.setuid({STRANGER})\n{MORE}"
    )
    assert outcome(programs.traced(code, KASPAN_INTERCEPTOR__RING_DIR=None)) == (0, "", "")

    assert len(RingReader(strangers_rings).take()) == 1
    assert strangers_rings.stat().st_uid == STRANGER


@only_root
def test_process_keeps_its_ring_when_it_changes_its_user(programs: ProgramRunner) -> None:
    """Privileges dropped after the first span change nothing: the ring is mapped."""
    code = f"import os\n{SEND}\nos.setgid({STRANGER}); os.setuid({STRANGER})\n{MORE}"
    assert outcome(programs.traced(code)) == (0, "", "")

    assert len(RingReader(programs.ring_dir).take()) == 2


@only_root
def test_worker_that_may_not_use_the_directory_is_told_why(programs: ProgramRunner) -> None:
    """A ring directory that was set is never traded for another: the warning names both users."""
    code = (
        "import os; from support.kafka_clients import UnconnectedProducer; producer = UnconnectedProducer()\n"
        f"{MORE}if os.fork() == 0:\n    os.setgid({STRANGER}); os.setuid({STRANGER})\n    {MORE}"
        "else: os.wait()"
    )
    done = programs.traced(code)

    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "interceptor.ring_dir" in done.stderr


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
import sys
sys.stdout.flush()
interpreters.run_string(interpreters.create(), '''
import kafka
try: kafka.KafkaProducer(nonsense=True)
except Exception: pass
print(hasattr(kafka.KafkaProducer.send, "__wrapped__"), flush=True)
''')
import os; os._exit(0)  # Python 3.12.1 and 3.13.0 crash at the end, kaspan or not
"""


def test_subinterpreter_runs_untraced_and_says_so(programs: ProgramRunner) -> None:
    """An application in a sub-interpreter works as without kaspan, and one warning tells what to do."""
    done = programs.traced(SUBINTERPRETER)

    assert (done.returncode, done.stdout) == (0, "False\n")
    assert done.stderr.count("\n") == 1
    assert "sub-interpreter" in done.stderr


def test_main_interpreter_is_traced_beside_a_subinterpreter(programs: ProgramRunner) -> None:
    """What is refused to a sub-interpreter is not refused to the main one of the same process."""
    done = programs.traced(SEND + SUBINTERPRETER)

    assert (done.returncode, done.stdout) == (0, "False\n")
    assert len(RingReader(programs.ring_dir).take()) == 1


def test_exec_in_the_middle_keeps_what_was_finished(programs: ProgramRunner) -> None:
    """A process that becomes another program leaves its ring to the agent, and starts a new one."""
    code = f"import os, sys\n{SEND}\nos.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    assert outcome(programs.traced(code, SEND)) == (0, "", "")

    assert len(rings(programs.ring_dir)) == 2
    assert len(RingReader(programs.ring_dir).take()) == 2
    assert not any(map(is_owned, rings(programs.ring_dir)))
